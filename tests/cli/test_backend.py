"""``model.backend`` through the commands: recorded where results are, refused where layers are learnt from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from dyslctl.jobs import recipe
from dyslctl.jobs.recipe import load_policy
from dyslctl.runtime.packed import PackedBackbone
from dyslctl.types import Observation

Run = Callable[..., Result]
Document = Callable[..., dict[str, Any]]
PACKED = ("--set", "model.backend=packed")


def test_eval_runs_on_it_and_says_so(document: Document, distilled: dict[str, Any]) -> None:
    plain = document("eval", "--method", "full,dysl")
    packed = document("eval", "--method", "full,dysl", *PACKED)
    assert (plain["backend"], packed["backend"]) == ("eager", "packed")
    for method in ("full", "dysl"):
        assert packed["methods"][method]["mean_layers_run"] == plain["methods"][method]["mean_layers_run"]


def test_episodes_of_another_backend_are_not_gone_on_with(run: Run, document: Document, profiled: object) -> None:
    document("eval", "--method", "full")
    result = run("eval", "--method", "full", "--resume", *PACKED)
    assert result.exit_code == 4 and "about.backend: then 'eager', now 'packed'" in result.stderr


def test_nor_are_those_of_a_calibration(run: Run, document: Document, distilled: dict[str, Any]) -> None:
    asked = ("calibrate", "--target-layers", "6", "--episodes", "4")
    document(*asked)
    result = run(*asked, "--resume", *PACKED)
    assert result.exit_code == 4 and "about.backend: then 'eager', now 'packed'" in result.stderr


def test_a_baseline_of_another_backend_is_refused(run: Run, document: Document, profiled: object) -> None:
    Path("then.json").write_text(json.dumps(document("bench", "--method", "full")))
    result = run("bench", "--method", "full", "--baseline", "then.json", *PACKED)
    assert result.exit_code == 4 and "backend: then 'eager', now 'packed'" in result.stderr


@pytest.mark.parametrize("command", [("profile", "tiny"), ("distill",)])
def test_learning_needs_the_upstream_layers(run: Run, profiled: object, command: tuple[str, ...]) -> None:
    result = run(*command, *PACKED)
    assert result.exit_code == 2
    assert f"{command[0]} reads the upstream layers: expected model.backend=eager, found packed" in result.stderr


def test_a_robot_holds_a_packed_policy(profiled: object, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = list[int]()
    recipe._load_backbone.cache_clear()
    monkeypatch.setattr(recipe, "usable_cpus", lambda: 1)
    monkeypatch.setattr(recipe.torch, "set_num_threads", threads.append)
    seen = Observation({"agent": np.zeros((8, 8, 3), np.uint8)}, "reach red", np.zeros(2, np.float32))
    policies = [load_policy("tiny", "full", backend=backend) for backend in ("eager", "packed")]
    assert isinstance(policies[1].backbone, PackedBackbone) and threads == [1]
    actions = [policy.select_action(seen).actions for policy in policies]
    np.testing.assert_allclose(actions[0], actions[1], atol=1e-5)


def test_bench_shows_another_backend_beside_eager(run: Run, document: Document, profiled: object) -> None:
    found = document("bench", "--method", "full", "--backend", "packed")
    assert found["backend"] == "packed"
    (row,) = found["compared"]
    assert row["against"] == "eager" and row["ratio"] > 0 and row["action_error_max"] < 1e-5
    assert document("bench", "--method", "full")["compared"] == []
    table = run("bench", "--method", "full", "--backend", "packed", "--fail-if", "vs-eager.ratio > 0")
    assert table.exit_code == 5 and "vs-eager.ratio > 0" in table.stderr
    assert "layers run by packed" in table.stdout and "The full pass through the layers on packed" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--compare", "eager"), "--compare eager: that is the backend itself"),
        (("--compare", "transformers"), "names no stock model to compare with"),
        (("--compare", "torch"), "Input should be 'eager', 'transformers' or 'transformers-compiled'"),
        (("--backend", "graphs"), "Input should be 'eager', 'packed' or 'packed-int8'"),
        (("--device", "orin", "--compare", "transformers"), "a prediction stands for a stack"),
        (("--device", "orin", "--backend", "packed"), "a prediction stands for a stack"),
    ],
)
def test_bench_refuses(run: Run, profiled: object, arguments: tuple[str, ...], said: str) -> None:
    result = run("bench", "--method", "full", *arguments)
    assert result.exit_code == 2 and said in result.stderr
