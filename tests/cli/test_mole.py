"""``mole`` through the commands of every trained method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import Result

from dyslctl.artifacts.strict_yaml import read_yaml

Documents = Callable[..., dict[str, Any]]
BUNDLE = Path("runs/tiny/bundles/mole")


def test_trained_calibrated_evaluated_and_timed(
    profiled: dict[str, Any], document: Documents, run: Callable[..., Result]
) -> None:
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
    refused = run("bench", "--method", "full,mole", "--device", "orin")
    assert refused.exit_code == 2 and "there is none for it yet" in refused.stderr
