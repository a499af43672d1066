from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dyslctl import plugins
from dyslctl.artifacts.run_dir import RunDirectory, RunManifest, place_run, save_start
from dyslctl.jobs.recipe import load_policy


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
data: {path: null, execute_horizon: 3}
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
