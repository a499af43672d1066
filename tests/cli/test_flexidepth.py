"""``flexidepth`` and ``flexidepth-tokens`` through the commands of every trained method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from dyslctl.artifacts.files import read_json
from dyslctl.artifacts.strict_yaml import read_yaml

Documents = Callable[..., dict[str, Any]]
BUNDLE = Path("runs/tiny/bundles/flexidepth")
TOKENS = Path("runs/tiny/bundles/flexidepth-tokens")


def test_trained_calibrated_evaluated_and_timed(profiled: dict[str, Any], document: Documents) -> None:
    trained = document("distill", "--method", "flexidepth")
    assert [stage["stage"] for stage in trained["stages"]] == [2]
    assert Path(trained["bundle_path"]) == BUNDLE
    assert [path.name for path in BUNDLE.parent.iterdir()] == ["flexidepth"], "one stage, one bundle"
    assert read_yaml(BUNDLE / "bundle.yaml")["routing"] == {"tau": 0.5, "lenience": 0.0}

    found = document("calibrate", "--method", "flexidepth", "--target-layers", "4", "--episodes", "2")
    assert found["meaning"].startswith("logits") and found["met"]
    settings = read_yaml(BUNDLE / "bundle.yaml")
    assert settings["calibration"]["rule"] == "closed loop: 4 layers"
    assert settings["routing"] == {"tau": 0.5, "lenience": found["dial"]}

    # The lenience that stands in the bundle does on the same episodes what the dial did.
    evaluated = document("eval", "--method", "full,flexidepth", "--set", "eval.split=tune", "--episodes", "2")
    assert evaluated["methods"]["flexidepth"]["mean_layers_run"] == pytest.approx(found["layers_per_inference"])
    rows = document("bench", "--method", "full,flexidepth", "--device", "cpu")["rows"]
    assert [row["method"] for row in rows if row["source"] == "measured"] == ["full", "flexidepth"]


def test_token_by_token(profiled: dict[str, Any], document: Documents, run: Callable[..., Result]) -> None:
    trained = document("distill", "--method", "flexidepth-tokens", "--set", "distill.hard=true")
    assert Path(trained["bundle_path"]) == TOKENS and [stage["stage"] for stage in trained["stages"]] == [2]
    found = document("calibrate", "--method", "flexidepth-tokens", "--target-layers", "4", "--episodes", "2")
    assert {entry["layers"] for entry in found["tried"]} >= {0.0, 8.0}

    names = "full,flexidepth-tokens"
    tuned = ("--set", "eval.split=tune", "--episodes", "2")
    methods = document("eval", "--method", names, *tuned, "--batch", "2")["methods"]
    assert methods["flexidepth-tokens"]["mean_layers_run"] == pytest.approx(found["layers_per_inference"], abs=1)
    assert methods["flexidepth-tokens"]["mean_layers_run"] < 8 and found["dial"] > 0, "routers skip"
    assert methods["flexidepth-tokens"]["mean_tokens"] < methods["full"]["mean_tokens"], "and not for all tokens alike"
    rows = document("bench", "--method", names, "--device", "cpu")["rows"]
    measured = {row["method"]: row for row in rows if row["source"] == "measured"}
    assert set(measured) == {"full", "flexidepth-tokens"} and "mean_tokens" in measured["full"]
    assert measured["flexidepth-tokens"]["skip_efficiency"] is None, "its layers do not cost alike"
    refused = run("bench", "--method", names, "--device", "orin", "--json")
    assert refused.exit_code == 2 and "runs its layers on fewer tokens" in refused.stderr


def test_a_curve(profiled: dict[str, Any], document: Documents) -> None:
    sizes = ("--set", "distill.episodes=2", "--set", "distill.steps=3", "--set", "distill.batch_size=4")
    small = ("--seeds", "0", "--budgets", "6", "--episodes", "2", "--set", "pareto.tune_episodes=2")
    found = document("analyze", "pareto", *sizes, *small, "--method", "flexidepth")
    assert [point["method"] for point in found["points"]] == ["full", "flexidepth"]
    assert read_json(Path("runs/tiny/seeds/seed0/trained_flexidepth.json"))["distill"]["method"] == "flexidepth"


def test_stage_1_alone_does_not_exist(profiled: dict[str, Any], run: Callable[..., Result]) -> None:
    failed = run("distill", "--method", "flexidepth", "--stage", "1")
    assert failed.exit_code == 2 and "trained in one stage, the second" in failed.stderr
    assert not BUNDLE.exists()
