"""``mole`` through the commands of every trained method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dyslctl.artifacts.strict_yaml import read_yaml

Documents = Callable[..., dict[str, Any]]
BUNDLE = Path("runs/tiny/bundles/mole")


def test_trained_calibrated_evaluated_and_timed(profiled: dict[str, Any], document: Documents) -> None:
    trained = document("distill", "--method", "mole", "--set", "distill.kept_share=0.75")
    assert [stage["stage"] for stage in trained["stages"]] == [2]
    assert read_yaml(BUNDLE / "bundle.yaml")["mixture"] == {"share": 0.75}
    evaluated = document("eval", "--method", "full,mole", "--episodes", "2")
    assert evaluated["methods"]["mole"]["mean_layers_run"] == 6

    found = document("calibrate", "--method", "mole", "--target-layers", "4", "--episodes", "2")
    assert found["met"] and found["layers_per_inference"] == 4
    assert read_yaml(BUNDLE / "bundle.yaml")["mixture"]["share"] == -found["dial"]
    rows = document("bench", "--method", "full,mole", "--device", "cpu")["rows"]
    assert [row["method"] for row in rows if row["source"] == "measured"] == ["full", "mole"]
    rows = document("bench", "--method", "full,mole", "--device", "orin")["rows"]
    full, there = (row for row in rows if row["source"] == "predicted")
    assert (there["layers_run"], there["jumps_per_inference"]) == (12, 1)  # of 24, and one router
    assert there["parts_ms"]["layers"] == pytest.approx(full["parts_ms"]["layers"] / 2)
    assert 0 < there["parts_ms"]["adapters"] < there["parts_ms"]["layers"] / 12
