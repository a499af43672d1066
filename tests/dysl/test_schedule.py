from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from dyslctl.dysl.guidance import GuidanceSettings, SkippingAllowPoints
from dyslctl.dysl.partition import LayerPartition
from dyslctl.dysl.schedule import DySLSchedule
from dyslctl.dysl.skip_modules import SkipModules, SkipSizes
from dyslctl.engine import ForwardTrace, FullSchedule, LayerSchedule, forward
from dyslctl.types import LayerInputs, LayerState, Observation, TokenKind

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

NEVER, ALWAYS = GuidanceSettings(-0.1, 0.0, tau=1.0), GuidanceSettings(-0.1, 0.0, tau=0.0)


@pytest.fixture
def inputs(backbone: TinyBackbone, observations: list[Observation]) -> LayerInputs:
    return backbone.encode(observations[:1])


def run(backbone: TinyBackbone, inputs: LayerInputs, schedule: LayerSchedule) -> tuple[torch.Tensor, ForwardTrace]:
    state = LayerState.of(inputs)
    with torch.inference_mode():
        trace = forward(backbone, state, schedule)
    return state.hidden, trace


def test_tau_1_is_the_full_model_bit_for_bit(backbone: TinyBackbone, inputs: LayerInputs, modules: SkipModules) -> None:
    schedule = DySLSchedule(modules, NEVER)
    hidden, trace = run(backbone, inputs, schedule)
    assert torch.equal(hidden, run(backbone, inputs, FullSchedule())[0])
    assert trace.layers_run == list(range(8))
    assert [c.layer for c in schedule.consulted] == [1, 2, 4, 5, 6], "after a no, the next controller is asked"


def test_points_at_the_static_layers_are_the_full_model_and_ask_nobody(
    backbone: TinyBackbone, inputs: LayerInputs, modules: SkipModules
) -> None:
    points = SkippingAllowPoints(modules.partition.segments, -0.1, 0.0)
    points.move(-9, -9)
    schedule = DySLSchedule(modules, ALWAYS, points)
    hidden, _ = run(backbone, inputs, schedule)
    assert torch.equal(hidden, run(backbone, inputs, FullSchedule())[0])
    assert schedule.consulted == []


def test_at_most_one_skip_a_segment_through_its_adapter(
    backbone: TinyBackbone, inputs: LayerInputs, modules: SkipModules
) -> None:
    schedule = DySLSchedule(modules, ALWAYS)
    hidden, trace = run(backbone, inputs, schedule)
    assert (trace.layers_run, trace.jumps) == ([0, 3, 7], [(1, 3), (4, 7)])
    assert [c.layer for c in schedule.consulted] == [1, 4]
    state = LayerState.of(inputs)
    state.hidden = modules.adapter(1)(backbone.run_layer(0, state))
    state.hidden = modules.adapter(4)(backbone.run_layer(3, state))
    torch.testing.assert_close(hidden, backbone.run_layer(7, state))


def test_an_allow_point_inside_a_segment(backbone: TinyBackbone, inputs: LayerInputs, modules: SkipModules) -> None:
    points = SkippingAllowPoints(modules.partition.segments, -0.1, 0.0, stride=1)
    points.move(-1, -1)
    _, trace = run(backbone, inputs, DySLSchedule(modules, ALWAYS, points))
    assert trace.jumps == [(2, 3), (5, 7)]


def test_an_untrained_adapter_is_a_plain_skip(
    backbone: TinyBackbone, inputs: LayerInputs, partition: LayerPartition
) -> None:
    hidden, _ = run(backbone, inputs, DySLSchedule(SkipModules(partition, SkipSizes.mini(16)), ALWAYS))
    state = LayerState.of(inputs)
    for layer in (0, 3, 7):
        state.hidden = backbone.run_layer(layer, state)
    assert torch.equal(hidden, state.hidden)


def test_resuming_after_a_skip_is_the_full_pass_bit_for_bit(
    backbone: TinyBackbone, inputs: LayerInputs, modules: SkipModules
) -> None:
    _, trace = run(backbone, inputs, DySLSchedule(modules, ALWAYS))
    assert trace.resume_layer == 1 and trace.resume_state is not None
    with torch.inference_mode():
        forward(backbone, trace.resume_state, FullSchedule(), first=1)
    assert torch.equal(trace.resume_state.hidden, run(backbone, inputs, FullSchedule())[0])


def test_the_recorded_probability_is_the_controllers_and_tau_may_differ_by_layer(
    backbone: TinyBackbone, inputs: LayerInputs, modules: SkipModules
) -> None:
    with torch.no_grad():
        for layer, logit in ((1, 0.0), (2, 3.0), (4, -800.0), (5, 800.0)):
            modules.controller(layer).out.weight.zero_()
            modules.controller(layer).out.bias.fill_(logit)
    schedule = DySLSchedule(modules, GuidanceSettings(-0.1, 0.0, tau=0.5, tau_by_layer={2: 0.99}))
    _, trace = run(backbone, inputs, schedule)
    assert {c.layer: pytest.approx(c.answer) for c in schedule.consulted} == {
        1: 0.5,
        2: 0.9525741268,
        4: 0.0,
        5: 1.0,
    }
    assert trace.jumps == [(5, 7)], "0.5 does not exceed 0.5, and 0.95 does not exceed 0.99"


def test_tokens_dropped_on_the_way_are_followed(
    backbone: TinyBackbone, inputs: LayerInputs, modules: SkipModules
) -> None:
    class Pruning(DySLSchedule):
        def after(self, layer: int, state: LayerState) -> None:
            if layer == 3:
                state.select((state.kinds != TokenKind.VISION).nonzero()[:, 1][None])

    schedule = Pruning(modules, NEVER)
    _, trace = run(backbone, inputs, schedule)
    tokens = inputs.hidden.shape[1]
    assert trace.tokens == [tokens] * 4 + [tokens - 4] * 4
    assert [c.layer for c in schedule.consulted] == [1, 2, 4, 5, 6]
