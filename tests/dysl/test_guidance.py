from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dyslctl.dysl.continuity import Continuity
from dyslctl.dysl.guidance import (
    ChunkPolicy,
    GuidanceSettings,
    Signal,
    SkipGuidance,
    SkippingAllowPoints,
    read_signals,
)
from dyslctl.dysl.partition import Segment
from dyslctl.errors import ConfigError

FOUR = (Segment(1, 5),)


def points(eta_1: float = -0.1, eta_2: float = 0.05, stride: Any = "adaptive") -> SkippingAllowPoints:
    return SkippingAllowPoints(FOUR, eta_1, eta_2, stride)


def test_four_dynamic_layers_have_five_positions() -> None:
    machine, seen = points(stride=1), []
    for _ in range(6):
        seen.append([layer for layer in (1, 2, 3, 4) if machine.allows(layer)])
        machine.move(-0.2, -0.2)
    assert seen == [[1, 2, 3, 4], [2, 3, 4], [3, 4], [4], [], []]


def test_equation_2_by_hand() -> None:
    """ceil(-0.25 / -0.1) = 3 layers; then clamped at the static layer 5."""
    machine = points()
    machine.move(-0.25, -0.25)
    assert machine.points == [4]
    machine.move(-0.11, -0.11)
    assert machine.points == [5]
    machine.move(-9, -9)
    assert machine.points == [5]


def test_equation_3_steps_back_by_one_to_the_floor() -> None:
    machine = points()
    machine.move(-0.15, -0.15)
    assert machine.points == [3]
    for expected in (2, 1, 1):
        machine.move(0.06, 0.06)
        assert machine.points == [expected]


def test_the_adaptive_stride_is_at_least_two() -> None:
    machine = points()
    machine.move(math.nextafter(-0.1, -1), 0.0)
    assert machine.points == [3]


def test_the_thresholds_themselves_are_in_the_dead_band() -> None:
    machine = points()
    machine.move(-0.15, 0.0)
    for delta in (-0.1, 0.0, 0.05):
        machine.move(delta, delta)
        assert machine.points == [3]


def test_protected_fraction() -> None:
    machine = SkippingAllowPoints((Segment(1, 5), Segment(6, 7)), -0.1, 0.0)
    assert machine.protected_fraction == 0
    machine.move(-0.15, 0)
    assert machine.points == [3, 7]
    assert machine.protected_fraction == pytest.approx(3 / 5)
    assert SkippingAllowPoints((), -0.1, 0.0).protected_fraction == 1.0


class AllowPointMachine(RuleBasedStateMachine):
    """Random moves against a model that keeps, per segment, how many of its layers are forced."""

    @initialize(
        lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
        eta_1=st.floats(-1, -0.01),
        eta_2=st.floats(0, 1),
        stride=st.sampled_from(["adaptive", 1, 3]),
    )
    def start(self, lengths: list[int], eta_1: float, eta_2: float, stride: Any) -> None:
        begins = np.cumsum([1, *(length + 1 for length in lengths)])
        self.segments = [Segment(int(a), int(a) + n) for a, n in zip(begins, lengths, strict=False)]
        self.eta_1, self.eta_2, self.stride = eta_1, eta_2, stride
        self.machine = SkippingAllowPoints(self.segments, eta_1, eta_2, stride)
        self.forced = [0] * len(lengths)

    @rule(delta=st.floats(-3, 3))
    def move(self, delta: float) -> None:
        self.machine.move(delta, delta)
        ahead = math.ceil(delta / self.eta_1) if self.stride == "adaptive" else self.stride
        if delta < self.eta_1:
            self.forced = [min(f + ahead, len(s)) for f, s in zip(self.forced, self.segments, strict=True)]
        elif delta > self.eta_2:
            self.forced = [max(f - 1, 0) for f in self.forced]

    @rule()
    def reset(self) -> None:
        self.machine.reset()
        self.forced = [0] * len(self.segments)

    @invariant()
    def agrees_with_the_model(self) -> None:
        for segment, forced in zip(self.segments, self.forced, strict=True):
            assert [self.machine.allows(j) for j in segment.layers] == [n >= forced for n in range(len(segment))]
        total = sum(len(s) for s in self.segments)
        assert self.machine.protected_fraction == pytest.approx(sum(self.forced) / total)


TestAllowPointMachine = AllowPointMachine.TestCase
TestAllowPointMachine.settings = settings(max_examples=50, stateful_step_count=20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eta_1": 0.0}, "eta_1 < 0"),
        ({"eta_2": -0.1}, "eta_1 < 0 <= eta_2"),
        ({"k": 0}, "k >= 1"),
        ({"chunk_policy": "median"}, "chunk_min"),
        ({"stride": 0}, "stride"),
        ({"stride": "long"}, "stride"),
        ({"tau": 1.5}, "tau"),
        ({"tau_by_layer": {3: -0.1}}, "tau"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GuidanceSettings(**({"eta_1": -0.1, "eta_2": 0.0} | changes))


def test_a_controller_may_have_its_own_threshold() -> None:
    settings = GuidanceSettings(-0.1, 0.0, tau=0.4, tau_by_layer={3: 0.9})
    assert [settings.threshold(layer) for layer in (2, 3)] == [0.4, 0.9]


CHUNK = Continuity(values=(-0.25, -0.75, -0.5), deltas=(None, -0.3, 0.2))


@pytest.mark.parametrize(
    ("policy", "previous_end", "expected"),
    [
        ("chunk_min", -0.75, [Signal(-0.3, 0.25)]),
        ("chunk_min", None, [Signal(-0.3, 0.0)]),
        ("per_action", None, [Signal(-0.3, -0.3), Signal(0.2, 0.2)]),
        ("chunk_end", None, [Signal(0.2, 0.2)]),
    ],
)
def test_chunk_policies(policy: ChunkPolicy, previous_end: float | None, expected: list[Signal]) -> None:
    assert read_signals(policy, CHUNK, previous_end) == expected


@pytest.mark.parametrize("policy", ["chunk_min", "per_action", "chunk_end", "first_action"])
def test_undefined_continuity_gives_no_signal(policy: ChunkPolicy) -> None:
    assert read_signals(policy, Continuity((None, -0.1), (None, None)), None) == []


def guidance(policy: ChunkPolicy = "chunk_min", k: int = 1) -> SkipGuidance:
    return SkipGuidance(FOUR, GuidanceSettings(-0.1, 0.05, k=k, chunk_policy=policy))


def path(*places: float) -> np.ndarray:
    return np.array(places)[:, None]


def test_first_drop_only_once_until_continuity_recovers() -> None:
    """k = 1: delta C_t = |step before| - |step now|. Steps 0, .2, .4, .4, .6 give -.2, -.2, 0, -.2."""
    watch = guidance()
    place, drops = 0.0, []
    for step in (0.0, 0.0, 0.2, 0.4, 0.4, 0.6):
        place += step
        drops.append(watch.preview(path(place)).first_drop)
        watch.commit(path(place))
    assert drops == [False, False, True, False, False, True]


def test_undefined_before_counts_as_zero_and_no_move_while_undefined() -> None:
    watch = guidance()
    assert not watch.commit(path(0.0)).first_drop
    assert watch.commit(path(1.0)).signals == ()
    assert watch.allow_points.points == [1]
    verdict = watch.commit(path(3.0))
    assert (verdict.first_drop, verdict.delta, verdict.continuity) == (True, -1.0, -2.0)
    assert watch.allow_points.points == [5]


def test_preview_is_free_of_effects_and_the_replacement_decides() -> None:
    watch = guidance()
    watch.commit(path(0.0, 0.0))
    assert watch.preview(path(1.0)).first_drop
    assert watch.allow_points.points == [1]
    assert not watch.commit(path(0.0)).first_drop, "the second prediction is smooth: a false alarm"
    assert watch.allow_points.points == [1]
    assert watch.preview(path(1.0)).first_drop, "the next drop is again a first one"


def test_chunk_min_moves_once_and_per_action_once_an_action() -> None:
    """Steps .2, .4, .6 after rest: three falls of .2, each worth ceil(.2 / .1) = 2 layers."""
    moved = {}
    for policy in ("chunk_min", "per_action", "chunk_end"):
        watch = SkipGuidance((Segment(1, 12),), GuidanceSettings(-0.125, 0.05, k=1, chunk_policy=policy))
        watch.commit(path(0.0, 0.0))
        watch.commit(path(0.25, 0.75, 1.5))
        moved[policy] = watch.allow_points.points[0] - 1
    assert moved == {"chunk_min": 2, "per_action": 6, "chunk_end": 2}


def test_chunk_min_steps_back_once_when_the_chunk_ends_smoother() -> None:
    watch = guidance()
    watch.commit(path(0.0, 0.0))
    watch.commit(path(0.3, 0.6))
    assert watch.allow_points.points == [4]
    watch.commit(path(0.7, 0.7))
    assert watch.allow_points.points == [3]


def test_first_action_measures_at_inference_rate() -> None:
    watch = guidance("first_action")
    for first in (0.0, 0.1):
        watch.commit(path(first, 9.0, -9.0))
    assert watch.commit(path(0.2, 5.0)).delta == pytest.approx(0.0)


def test_the_gripper_weight_reaches_the_continuity() -> None:
    flip = np.array([[0.0, -1], [0.0, -1], [0.0, 1]])
    for weight, expected in ((1.0, -2.0), (0.25, -0.5)):
        settings = GuidanceSettings(-0.1, 0.0, k=1, gripper_weight=weight)
        assert SkipGuidance(FOUR, settings, gripper_dim=1).commit(flip).delta == pytest.approx(expected)


def test_reset_starts_an_episode_from_nothing() -> None:
    watch = guidance()
    actions = [path(0.0, 0.3), path(0.1, 0.9), path(1.0, 1.1)]
    first = [watch.commit(chunk) for chunk in actions]
    watch.reset()
    assert watch.allow_points.points == [1]
    assert [watch.commit(chunk) for chunk in actions] == first


def test_lenience_shifts_every_threshold_in_logits() -> None:
    """logit(0.5) - log 3 = logit(1 / 4); logit(0.8) - log 4 = logit(0.5)."""
    settings = GuidanceSettings(-1.0, 0.0, tau=0.5, tau_by_layer={3: 0.8, 4: 1.0, 5: 0.0})
    assert replace(settings, lenience=math.log(3)).threshold(1) == pytest.approx(0.25)
    lenient = replace(settings, lenience=math.log(4))
    assert [lenient.threshold(layer) for layer in (3, 4, 5)] == [pytest.approx(0.5), 1.0, 0.0]
    assert [settings.threshold(layer) for layer in (1, 3)] == [0.5, 0.8]
    assert [replace(settings, lenience=end).threshold(1) for end in (math.inf, -math.inf)] == [pytest.approx(0), 1.0]


@given(st.floats(0.01, 0.99), st.floats(-16, 16), st.floats(-16, 16))
def test_more_lenience_never_raises_a_threshold(tau: float, one: float, two: float) -> None:
    settings = GuidanceSettings(-1.0, 0.0, tau=tau)
    low, high = sorted((one, two))
    assert replace(settings, lenience=high).threshold(1) <= replace(settings, lenience=low).threshold(1)
