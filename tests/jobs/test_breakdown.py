"""Parts of an inference, with a clock that ticks only where the test says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from dyslctl.engine import RUN, Jump, LayerSchedule, Step, forward
from dyslctl.jobs.breakdown import ClockedSchedule, PassShares, parts_ms, pass_shares
from dyslctl.jobs.latency import Latency, Timing, demonstration_frames
from dyslctl.policy import Plan, SchedulePolicy, StepReport
from dyslctl.types import LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach


class Sundial:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Slow(LayerSchedule):
    """Decides for 2 s before each layer; jumps from 2 to 5 through an adapter of 30 s."""

    def __init__(self, dial: Sundial) -> None:
        self.dial = dial

    def before(self, layer: int, state: LayerState) -> Step:
        self.dial.seconds += 2
        return Jump(5, self.adapter) if layer == 2 else RUN

    def after(self, layer: int, state: LayerState) -> None:
        self.dial.seconds += 10

    def adapter(self, hidden: Tensor) -> Tensor:
        self.dial.seconds += 30
        return hidden + 1


def test_the_clock_changes_nothing_and_adds_up(tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]) -> None:
    backbone, dial = tiny_backbone(num_layers=8), Sundial()
    inputs = backbone.encode(demonstration_frames(tiny_suite(), 1)[0][:1])
    plain, clocked = LayerState.of(inputs), LayerState.of(inputs)
    forward(backbone, plain, Slow(Sundial()))
    schedule = ClockedSchedule(Slow(dial), dial)
    forward(backbone, clocked, schedule)
    assert torch.equal(plain.hidden, clocked.hidden)
    # Layers 0, 1, 5, 6, 7 run; six decisions, one of them a jump.
    assert (schedule.decisions, schedule.adapters, dial.seconds) == (12.0, 30.0, 92.0)


def test_shares_of_a_pass(tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]) -> None:
    backbone, dial = tiny_backbone(num_layers=8), Sundial()
    policy = SchedulePolicy(backbone, Slow(dial), execute_horizon=2)
    shares = pass_shares({"slow": policy}, demonstration_frames(tiny_suite(), 1), frames=3, clock=dial)
    found = shares["slow"]
    assert (found.layers, found.controllers, found.adapters) == pytest.approx((50 / 92, 12 / 92, 30 / 92))
    assert found.tokens == 0


def test_where_tokens_are_pruned_the_decisions_are_about_them(
    tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]
) -> None:
    """What follows a layer, ten of 92 each for five, is theirs too."""
    backbone, dial = tiny_backbone(num_layers=8), Sundial()
    policy, frames = SchedulePolicy(backbone, Slow(dial), execute_horizon=2), demonstration_frames(tiny_suite(), 1)
    found = pass_shares({"slow": policy}, frames, frames=3, clock=dial, pruning={"slow"})["slow"]
    assert (found.layers, found.tokens, found.controllers) == pytest.approx((0, 62 / 92, 0))


def test_what_is_decided_at_the_start_and_every_attempt_counts(
    tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]
) -> None:
    """Two attempts, as of ``deer``, of 100 s each: 8 at the start, 12 in decisions, 30 in adapters, 50 after layers."""
    backbone, dial = tiny_backbone(num_layers=8), Sundial()

    class Starting(Slow):
        def start(self, state: LayerState) -> None:
            self.dial.seconds += 8

    class Twice(SchedulePolicy):
        def plan(self, observation: Observation) -> Plan:
            yield from super().plan(observation)
            return (yield from super().plan(observation))

    policy = Twice(backbone, Starting(dial), execute_horizon=2)
    found = pass_shares({"twice": policy}, demonstration_frames(tiny_suite(), 1), frames=1, clock=dial)["twice"]
    assert dial.seconds == 200
    assert (found.layers, found.controllers, found.adapters) == pytest.approx((0.5, 0.2, 0.3))


def test_parts_add_up_to_the_inference() -> None:
    once = StepReport((0,) * 5, {"encode": 1.0, "llm": 8.0, "head": 0.5, "guidance": 0.25})
    twice = StepReport(
        (0,) * 9, {"encode": 1.0, "llm": 14.0, "head": 1.0, "guidance": 0.25}, verified=True, reprediction_ms=6.5
    )
    latency = Latency((Timing(9.75, once), Timing(16.25, twice)))
    parts = parts_ms(latency, PassShares(layers=0.75, controllers=0.125, adapters=0.125))
    assert sum(parts.values()) == pytest.approx((9.75 + 16.25) / 2)
    assert parts == pytest.approx(
        {
            "encode": 1.0,
            "layers": 6.0,  # the first pass takes 8 ms in both inferences
            "controllers": 1.0,
            "adapters": 1.0,
            "tokens": 0.0,
            "reprediction": 3.25,
            "head": 0.5,
            "guidance": 0.25,
        }
    )
