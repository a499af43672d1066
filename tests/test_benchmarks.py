"""The benchmarks are programs of their own, which nothing else calls: what they are built from still fits."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from dyslctl.backbone import Workload
from dyslctl.engine import forward
from dyslctl.types import LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("chosen", [None, 0, 2])
def test_a_planner_that_names_an_exit_is_obeyed(tiny_backbone: type[TinyBackbone], chosen: int | None) -> None:
    backbone = tiny_backbone(num_layers=8)
    seen = Observation({"agent": np.zeros((8, 8, 3), np.uint8)}, "reach red", np.zeros(2, np.float32))
    plan = importlib.import_module("skip_efficiency").leaving(backbone, chosen)
    with torch.inference_mode():
        trace = forward(backbone, LayerState.of(backbone.encode([seen])), plan)
    assert len(trace.layers_run) == (8 if chosen is None else plan.ladder.exits[chosen])


def test_controllers_of_a_benchmark_decide_as_they_are_told(tiny_backbone: type[TinyBackbone]) -> None:
    backbone, module = tiny_backbone(num_layers=8), importlib.import_module("skip_efficiency")
    seen = Observation({"agent": np.zeros((8, 8, 3), np.uint8)}, "reach red", np.zeros(2, np.float32))
    plans = module.jumps(backbone)
    with torch.inference_mode():
        ran = {name: forward(backbone, LayerState.of(backbone.encode([seen])), plan) for name, plan in plans.items()}
    assert ran.pop(module.NO_SKIP).layers_run == list(range(8))
    static = module.even_partition(8).static_layers
    assert ran["skip from 0"].layers_run == list(static)


def test_a_figure_and_its_target() -> None:
    figures = importlib.import_module("figures")
    rows = [
        figures.Figure("saved", "1024 x 12 x 256", 0.98765, ">= 0.97", "a note"),
        figures.Figure("added", "", 0.02, "<= 0.01"),
        figures.Figure("grown", "", 1.9),
        figures.Figure("on a GPU", "", None, ">= 0.96", "no GPU"),
    ]
    assert [row.reached for row in rows] == [True, False, None, None]
    assert figures.markdown(rows).splitlines()[2:] == [
        "| saved | 1024 x 12 x 256 | 0.988 | >= 0.97 | yes | a note |",
        "| added |  | 0.02 | <= 0.01 | no |  |",
        "| grown |  | 1.9 |  |  |  |",
        "| on a GPU |  | not measured | >= 0.96 |  | no GPU |",
    ]


def test_ratios_are_medians_of_rounds() -> None:
    """10, 20, 30 s of ours, and half of the work skipped for 6, 11, 15: (4/5, 9/10, 15/15)."""
    runtime = importlib.import_module("runtime")
    shape = runtime.Shape.parse("64x8x126", "float32")
    took = {
        "ours": np.array([10.0, 20.0, 30.0]),
        "transformers": np.array([20.0, 20.0, 45.0]),
        "half": np.array([6.0, 11.0, 15.0]),
    }
    assert [row.value for row in runtime.ratios(shape, took)] == [1.5]
    (saved,) = runtime.savings(shape, took, {"half": 4})
    assert (saved.value, saved.reached, saved.note) == (pytest.approx(0.9), False, "4 of 8 layers run")


def test_the_table_is_written(tmp_path: Path) -> None:
    command = ["runtime.py", "--only", "steps", "--only", "gpu", "--steps", "3", "--out", str(tmp_path)]
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    document = json.loads((tmp_path / "runtime.json").read_text(encoding="utf-8"))
    names = [row["name"] for row in document["figures"]]
    assert names[:2] == ["p99 / p50, CPU time", "p99 / p50, wall clock"] and "environment" in document
    table = (tmp_path / "runtime.md").read_text(encoding="utf-8")
    assert table.count("\n") == 2 + len(names) and "not measured" in table


def test_an_ideal_saving_by_hand() -> None:
    """2 p n + 4 n^2 d with p = 2, d = 1: 440 for ten tokens, 120 for five. Of 880 operations 320 go."""
    module = importlib.import_module("token_pruning")
    size = Workload(2, 10, 1, 2, 0.0, 0, 0.0, 0)
    assert module.ideal_saving(size, (10, 5)) == pytest.approx(320 / 880)
    seconds = {"full": (1.0, (10, 10)), "specprune": (0.6, (10, 5)), "replay": (0.5, (10, 5))}
    found = module.summarize(size, {name: [module.Timed(*each)] for name, each in seconds.items()}, looking=0.05)
    assert found["realised_saving"] == pytest.approx(0.35)
    assert found["efficiency"] == found["efficiency_min"] == pytest.approx(0.35 / (320 / 880))
    assert found["efficiency_of_replay"] == pytest.approx(0.5 / (320 / 880))
    assert found["overhead_of_full"] == pytest.approx(0.15)
