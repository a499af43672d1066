from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dyslctl.devices.roofline import ModuleParams, Usage
from dyslctl.dysl.exits import ExitSizes
from dyslctl.dysl.skip_modules import SkipSizes
from dyslctl.jobs.charges import ROUTED, exit_params, module_params, scaled
from dyslctl.jobs.latency_prediction import choose_workload

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

SIZES = ExitSizes(16, 4, 3, adapter_rank=16)


def test_module_parameters_follow_the_papers_presets(tiny_backbone: type[TinyBackbone]) -> None:
    workload = choose_workload(tiny_backbone(), None)[1]
    assert workload.hidden_size == 2048
    assert module_params(workload, None) == ModuleParams(adapter=661_664, controller=69_697)
    # Rank 2048 / 4; a memory of 4 * 3 + 1; a planner of 128 over three parts of 2048 and the memory, for five exits.
    planner = 2 * 6157 + 6157 * 128 + 128 + 128 * 5 + 5
    adapter = 2 * 2048 * 512 + 512 + 3 * 2048 + 4 * 512 * 13
    assert exit_params(workload, SIZES, 5) == ModuleParams(adapter, planner)
    narrow = ExitSizes(2048, 1, 1, adapter_rank=1, planner_width=1)  # at its own size a bundle keeps its widths
    assert exit_params(workload, narrow, 1) == ModuleParams(2 * 2048 + 1 + 3 * 2048 + 2, 3 * 6146 + 1 + 1 + 1)
    own = SkipSizes(2048, 1, 1)  # 2 H r + r + H + 2 H and 2 H + H h + h + h + 1
    assert module_params(workload, own) == ModuleParams(adapter=10_241, controller=6_147)


def test_flexidepth_is_charged_for_its_own_modules(tiny_backbone: type[TinyBackbone]) -> None:
    """Published: 390M for 32 layers of width 4096."""
    workload = replace(choose_workload(tiny_backbone(), None)[1], hidden_size=4096)
    found = ROUTED.params(None, workload)
    assert 32 * (found.adapter + found.controller) == pytest.approx(390e6, rel=0.01)


def test_scaling() -> None:
    assert scaled(Usage(12, 4, 2), 32 / 16) == Usage(24, 8, 4)
    assert scaled(Usage(12, 1, 1), 32 / 16, once=True) == Usage(24, 1, 1)
