from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dyslctl import plugins
from dyslctl.artifacts.run_dir import RunDirectory, RunManifest, place_run, save_start
from dyslctl.errors import PluginError
from dyslctl.jobs.recipe import BackboneRecipe, PolicyRecipe, load_policy
from dyslctl.types import Observation


@pytest.fixture
def loads(tiny_backbone, tiny_suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """How the backbone is loaded each time, in an empty folder."""
    told: list[dict[str, Any]] = []

    class Spied(tiny_backbone):
        @classmethod
        def load(cls, checkpoint: str, **how: Any) -> Any:
            told.append({"checkpoint": checkpoint, **how})
            return tiny_backbone(dtype=how["dtype"])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "load_backbone", lambda name: Spied)
    monkeypatch.setattr(plugins, "load_suite", lambda name: tiny_suite())
    return told


def start(profile_config: str | None) -> RunDirectory:
    run = place_run("tiny")
    save_start(run, RunManifest.now("tiny", "org/weights", "tiny_reach", "abc123"))
    if profile_config is not None:
        run.profile_config.parent.mkdir()
        run.profile_config.write_text(profile_config)
    return run


TOLD = """
model: {name: tiny, checkpoint: org/weights, revision: abc123, dtype: bfloat16, options: {crop: true, views: 2}}
data: {path: null}
execute_horizon: 3
"""


def test_a_policy_is_loaded_as_the_run_was_profiled(loads: list[dict[str, Any]]) -> None:
    start(TOLD)
    policy = load_policy(method="full")
    assert loads == [
        {
            "checkpoint": "org/weights",
            "revision": "abc123",
            "device": torch.device("cpu"),
            "dtype": torch.bfloat16,
            "options": {"crop": True, "views": 2},
        }
    ]
    assert policy.backbone.dtype == torch.bfloat16


def test_a_run_is_named_or_its_folder_given(loads: list[dict[str, Any]]) -> None:
    folder = start(None).path
    for run in (folder.name, str(folder), folder):
        assert load_policy(run, "full", checkpoint="org/elsewhere").backbone.spec.num_layers


def test_what_the_caller_says_stands_above(loads: list[dict[str, Any]]) -> None:
    """One option replaces that option, as ``--set`` does."""
    start(TOLD)
    load_policy(method="full", dtype="float32", options={"crop": False})
    assert (loads[0]["dtype"], loads[0]["options"]) == (torch.float32, {"crop": False, "views": 2})


def test_a_run_that_was_told_nothing(loads: list[dict[str, Any]]) -> None:
    """Its profile was copied there, say."""
    start(None)
    load_policy(method="full")
    assert (loads[0]["device"], loads[0]["dtype"], loads[0]["options"]) == (torch.device("cpu"), torch.float32, {})


def test_a_robot_has_the_weights_elsewhere_and_no_simulator(
    loads: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_plugin(name: str) -> Any:
        raise PluginError(f"no suite named '{name}'")

    monkeypatch.setattr(plugins, "load_suite", no_plugin)
    start(None)
    policy = load_policy(method="full", checkpoint="/opt/weights", execute_horizon=2)
    assert loads[0]["checkpoint"] == "/opt/weights"
    seen = Observation({"agent": np.zeros((8, 8, 3), np.uint8)}, "reach red", np.zeros(2, np.float32))
    assert len(policy.select_action(seen)) == 2
    with pytest.raises(PluginError):  # who else says how many actions are executed?
        load_policy(method="full")


def test_all_that_episodes_depend_on_is_told(loads: list[dict[str, Any]], tmp_path: Path) -> None:
    """A backend, an option, a dial or a seed changes what is played: nothing of another one is gone on with."""
    backbone = BackboneRecipe("tiny", "org/weights")
    recipe = PolicyRecipe(backbone, tmp_path / "none.yaml", {}, 2)
    others = [
        replace(recipe, backbone=replace(backbone, backend="packed")),
        replace(recipe, backbone=replace(backbone, options='{"crop": true}')),
        replace(recipe, backbone=replace(backbone, dtype="bfloat16")),
        replace(recipe, seed=1),
        replace(recipe, dial=0.5),
        replace(recipe, target_layers=5.0),
    ]
    told = [each.about(["full"]) for each in (recipe, *others)]
    assert all(one != other for one, other in combinations(told, 2))
