"""The benchmarks are programs of their own, which nothing else calls: what they are built from still fits."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from dyslctl.engine import forward
from dyslctl.types import LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("chosen", [None, 0, 2])
def test_a_planner_that_names_an_exit_is_obeyed(
    tiny_backbone: type[TinyBackbone], monkeypatch: pytest.MonkeyPatch, chosen: int | None
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    backbone = tiny_backbone(num_layers=8)
    seen = Observation({"agent": np.zeros((8, 8, 3), np.uint8)}, "reach red", np.zeros(2, np.float32))
    plan = importlib.import_module("skip_efficiency").leaving(backbone, chosen)
    with torch.inference_mode():
        trace = forward(backbone, LayerState.of(backbone.encode([seen])), plan)
    assert len(trace.layers_run) == (8 if chosen is None else plan.ladder.exits[chosen])
