"""The real commands on a random checkpoint: a profile, the paper's training, an evaluation, a benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dyslctl.cli import app

QUICK = {
    "profile": ("samples=8",),
    "distill": ("episodes=2", "steps=2", "batch_size=4"),
    "guidance": ("episodes=1",),
    "eval": ("episodes=1",),
    "bench": ("warmup=0", "iterations=2", "min_seconds=0", "episodes=1"),
}
SIZES = [part for name, values in QUICK.items() for value in values for part in ("--set", f"{name}.{value}")]


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    monkeypatch.chdir(tmp_path)

    def run(command: str, *arguments: str) -> dict[str, Any]:
        result = CliRunner().invoke(app, [command, *SIZES, *arguments, "--json", "--quiet"])
        assert result.exit_code == 0, result.stderr
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    return run


def test_from_profile_to_bench(folder: Path, document: Callable[..., dict[str, Any]]) -> None:
    profile = document("profile", "roboflamingo", "--checkpoint", str(folder), "--suite", "tabletop_object")
    assert (profile["num_layers"], len(profile["static_layers"])) == (7, 4)
    bundle = Path(document("distill", "--method", "dysl-paper")["bundle_path"])
    assert (bundle / "bundle.safetensors").is_file()
    methods = document("eval", "--method", "full,dysl-paper")["methods"]
    assert {name: found["errors"] for name, found in methods.items()} == {"full": 0, "dysl-paper": 0}
    assert methods["full"]["mean_layers_run"] == 7
    rows = document("bench", "--device", "orin", "--method", "full,dysl-paper", "--as", "roboflamingo-3b")["rows"]
    assert {row["source"] for row in rows if row["method"] == "full"} == {"predicted"}


def test_pruning_is_refused_before_an_episode(folder: Path, document: Callable[..., dict[str, Any]]) -> None:
    document("profile", "roboflamingo", "--checkpoint", str(folder), "--suite", "tabletop_object")
    result = CliRunner().invoke(app, ["eval", "--method", "full,specprune", "--episodes", "1", "--quiet"])
    assert result.exit_code == 2
    assert "'specprune' prunes visual tokens, and the layers of RoboFlamingo see none" in result.stderr
