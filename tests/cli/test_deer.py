"""``deer`` through the commands of every trained method."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from typer.testing import Result

from dyslctl.artifacts.strict_yaml import read_yaml

Documents = Callable[..., dict[str, Any]]
BUNDLE = Path("runs/tiny/bundles/deer")


@pytest.fixture
def trained(profiled: dict[str, Any], document: Documents) -> dict[str, Any]:
    return document("distill", "--method", "deer")


def test_trained_calibrated_evaluated_and_timed(trained: dict[str, Any], document: Documents) -> None:
    assert [stage["stage"] for stage in trained["stages"]] == [1, 2]
    settings = read_yaml(BUNDLE / "bundle.yaml")
    assert settings["consistency"] == {"share": 0.75} and "calibration" not in settings
    tensors = load_file(BUNDLE / "bundle.safetensors")
    exits = [key for key in tensors if key.startswith("adapters.") and key.endswith("down.weight")]
    deltas = tensors["deltas"]
    assert deltas.shape[1] == len(exits) - 1 >= 1 and (deltas > 0).all()
    assert document("inspect", str(BUNDLE))["share"] == 0.75

    found = document("calibrate", "--method", "deer", "--target-layers", "5.5", "--episodes", "2")
    assert found["target"] == "5.5 layers"
    assert read_yaml(BUNDLE / "bundle.yaml")["consistency"]["share"] == -found["dial"]
    evaluated = document("eval", "--method", "full,deer", "--set", "eval.split=tune", "--episodes", "2")
    assert evaluated["methods"]["deer"]["mean_layers_run"] == pytest.approx(found["layers_per_inference"])
    rows = document("bench", "--method", "full,deer", "--device", "cpu")["rows"]
    here = {row["method"]: row for row in rows if row["source"] == "measured"}
    assert list(here) == ["full", "deer"]

    # Where no exit ends an inference it passes all of them, asks about all but the first, and predicts once more.
    document("calibrate", "--method", "deer", "--target-layers", "8", "--episodes", "2")
    rows = document("bench", "--method", "full,deer", "--device", "orin")["rows"]
    full, there = (row for row in rows if row["source"] == "predicted")
    tried = 3 * len(exits)  # 24 layers there, 8 here
    assert (there["layers_run"], there["jumps_per_inference"]) == (24, tried)
    assert there["controllers_per_inference"] == tried - 1
    assert there["parts_ms"]["head"] / full["parts_ms"]["head"] == pytest.approx(tried + 1)


def test_what_is_refused(trained: dict[str, Any], run: Callable[..., Result]) -> None:
    shutil.copytree(BUNDLE, BUNDLE.with_name("dysl"))
    refused = run("eval", "--method", "dysl")
    assert refused.exit_code == 4 and "expected the exits of dysl, found the modules of deer" in refused.stderr
