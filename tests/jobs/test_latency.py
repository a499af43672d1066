"""Interleaving, the head's memory, and the formulas. Nothing here depends on how fast this machine is."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dyslctl.engine import FullSchedule
from dyslctl.errors import ConfigError
from dyslctl.jobs.charges import scaled
from dyslctl.jobs.latency import (
    Latency,
    Series,
    Timing,
    controller_overhead,
    demonstration_frames,
    measure,
    measured_skip_efficiency,
    rotated,
    skip_efficiency,
)
from dyslctl.policy import Consultation, Plan, Policy, SchedulePolicy, StepReport
from dyslctl.suites.tabletop import TabletopObject
from dyslctl.types import ActionChunk, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach

FRAMES = [[Observation({}, f"episode {e} frame {f}") for f in range(3)] for e in range(2)]


class Diary(Policy):
    """Writes down what it is asked, in a book that all diaries share."""

    def __init__(self, name: str, book: list[str]) -> None:
        self.name, self.book = name, book
        self.schedule = FullSchedule()
        self.last = StepReport((0, 1), {"encode": 1.0, "llm": 2.0, "head": 3.0, "guidance": 0.0})

    def reset(self, seed: int = 0) -> None:
        self.book.append(f"{self.name}: reset {seed}")

    def plan(self, observation: Observation) -> Plan:
        raise NotImplementedError

    def select_action(self, observation: Observation) -> ActionChunk:
        self.book.append(f"{self.name}: {observation.instruction}")
        return ActionChunk(np.zeros((1, 3)), np.zeros((1, 3)))


def report(
    llm_ms: float, layers: int, *, reprediction_ms: float = 0.0, consulted: int = 0, jumps: int = 0
) -> StepReport:
    return StepReport(
        layers=tuple(range(layers)),
        timings_ms={"encode": 1.0, "llm": llm_ms, "head": 0.5, "guidance": 0.1},
        jumps=((0, 1),) * jumps,
        consulted=(Consultation(1, 0.3),) * consulted,
        verified=reprediction_ms > 0,
        reprediction_ms=reprediction_ms,
    )


def latency(*reports: StepReport) -> Latency:
    return Latency(tuple(Timing(sum(r.timings_ms.values()), r) for r in reports))


def test_a_second_prediction_passes_the_head_again() -> None:
    usage = latency(report(8.0, 8), report(12.0, 11, reprediction_ms=4.0)).usage
    assert (usage.layers, usage.heads) == (9.5, 1.5)
    assert scaled(usage, 2.0) == replace(usage, layers=19.0)


def test_every_frame_goes_to_every_method_in_a_rotating_order(tiny_backbone: type[TinyBackbone]) -> None:
    book: list[str] = []
    policies = {name: Diary(name, book) for name in ("a", "b", "c")}
    measure(tiny_backbone(), policies, FRAMES, Series(warmup=0, iterations=4, min_seconds=0.0))
    assert book == [
        *(f"{name}: reset 0" for name in "abc"),
        *(f"{name}: episode 0 frame 0" for name in "abc"),
        *(f"{name}: episode 0 frame 1" for name in "bca"),
        *(f"{name}: episode 0 frame 2" for name in "cab"),
        *(f"{name}: reset 1" for name in "abc"),
        *(f"{name}: episode 1 frame 0" for name in "abc"),
    ]


def test_rotation_gives_every_place_to_every_method() -> None:
    orders = [tuple(rotated(("a", "b", "c"), frame)) for frame in range(3)]
    assert all(len(set(place)) == 3 for place in zip(*orders, strict=True))


def test_warmup_is_not_counted_and_frames_start_again(tiny_backbone: type[TinyBackbone]) -> None:
    book: list[str] = []
    found = measure(tiny_backbone(), {"a": Diary("a", book)}, FRAMES, Series(warmup=2, iterations=7, min_seconds=0.0))
    assert len(found["a"].timings) == 7
    assert book.count("a: episode 0 frame 0") == 2 and "a: reset 2" in book


def test_min_seconds_prolongs_the_series(tiny_backbone: type[TinyBackbone]) -> None:
    ticks = itertools.count()
    series = Series(warmup=0, iterations=1, min_seconds=12.0)
    found = measure(tiny_backbone(), {"a": Diary("a", [])}, FRAMES, series, clock=lambda: float(next(ticks)))
    # The clock is read once at the beginning, twice a frame, and once before every later frame: 1 + 3 n >= 12.
    assert len(found["a"].timings) == 4
    assert [timing.end_to_end_ms for timing in found["a"].timings] == [1000.0] * 4


def test_methods_on_one_backbone_do_not_share_the_memory_of_its_head(
    tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]
) -> None:
    frames = demonstration_frames(tiny_suite(), 1)
    alone = Recorder(tiny_backbone(memory=True))
    measure(alone.backbone, {"x": alone}, frames, Series(0, len(frames[0]), 0.0))
    backbone = tiny_backbone(memory=True)
    pair = {"x": Recorder(backbone), "y": Recorder(backbone)}
    measure(backbone, pair, frames, Series(0, len(frames[0]), 0.0))
    assert len(alone.seen) == len(frames[0]) > 2
    for recorder in pair.values():
        np.testing.assert_array_equal(np.stack(recorder.seen), np.stack(alone.seen))


class Recorder(SchedulePolicy):
    """The full model; remembers its actions."""

    def __init__(self, backbone: TinyBackbone) -> None:
        super().__init__(backbone, FullSchedule(), execute_horizon=2)
        self.backbone, self.seen = backbone, list[np.ndarray]()

    def select_action(self, observation: Observation) -> ActionChunk:
        chunk = super().select_action(observation)
        self.seen.append(chunk.normalized)
        return chunk


def test_frames_are_those_a_policy_would_see(tiny_suite: type[TinyReach]) -> None:
    suite = tiny_suite()
    frames = demonstration_frames(suite, 2)
    demonstration = suite.demonstrate(suite.episodes("tune", 2)[1])
    assert len(frames) == 2 and len(frames[1]) == -(-len(demonstration.observations) // suite.execute_horizon)
    shown, recorded = frames[1][1].images["agent"], demonstration.observations[suite.execute_horizon].images["agent"]
    np.testing.assert_array_equal(shown, recorded)


def test_a_chain_is_shown_instruction_by_instruction(tiny_suite: type[TinyReach]) -> None:
    """A policy begins anew at each; the second may begin between two frames of a plain stride."""
    suite = tiny_suite(3)
    observations = suite.demonstrate(suite.episodes("tune", 1)[0]).observations
    frames = demonstration_frames(suite, 1)
    assert [len({frame.instruction for frame in shown}) for shown in frames] == [1, 1, 1]
    words = [observation.instruction for observation in observations]
    second = next(i for i, word in enumerate(words) if word != words[0])
    np.testing.assert_array_equal(frames[1][0].images["agent"], observations[second].images["agent"])


def test_no_frame_is_painted_while_the_clock_runs() -> None:
    frames = demonstration_frames(TabletopObject(), 1)
    assert all(type(frame.images) is dict for frame in frames[0])


def test_nothing_to_measure_is_an_error(tiny_backbone: type[TinyBackbone]) -> None:
    with pytest.raises(ConfigError, match="0 methods on 6 frames"):
        measure(tiny_backbone(), {}, FRAMES, Series())
    with pytest.raises(ConfigError, match="1 methods on 0 frames"):
        measure(tiny_backbone(), {"a": Diary("a", [])}, [[]], Series())


def test_a_series_must_be_sensible() -> None:
    with pytest.raises(ConfigError, match="iterations >= 1"):
        Series(iterations=0)


def test_skip_efficiency_by_hand() -> None:
    # 24 layers, 9 of them skipped: 37.5 %. Ideal saving of 100 ms is 37.5 ms, real saving 36 ms.
    assert skip_efficiency(100.0, 64.0, 9 / 24) == pytest.approx(0.96)
    assert skip_efficiency(100.0, 62.5, 9 / 24) == 1.0
    assert skip_efficiency(100.0, 110.0, 9 / 24) < 0


def test_controller_overhead_by_hand() -> None:
    # Table 4: 51.0 ms without, 74.0 ms with controllers that never skip
    assert controller_overhead(51.0, 74.0) == pytest.approx(0.451, abs=1e-3)


def test_measured_skip_efficiency_leaves_second_predictions_out() -> None:
    full = latency(report(10.0, 10), report(10.0, 10), report(30.0, 10))
    skipping = latency(
        report(6.0, 5),  # (10 - 6) / (10 * 0.5) = 0.8
        report(8.2, 8),  # (10 - 8.2) / (10 * 0.2) = 0.9
        report(4.0, 4),  # (10 - 4) / (10 * 0.6) = 1.0
        report(13.0, 12, reprediction_ms=7.0),  # saved nothing
    )
    assert measured_skip_efficiency(full, skipping, num_layers=10) == pytest.approx(0.9)
    assert measured_skip_efficiency(full, full, num_layers=10) is None


def test_summary_carries_units_and_counts() -> None:
    values = latency(
        report(4.0, 10, consulted=3, jumps=2),
        report(6.0, 12, consulted=5, jumps=1, reprediction_ms=2.0),
        report(14.0, 20, consulted=1),
    ).as_dict()
    assert values["llm_ms_p50"] == 6.0 and values["llm_ms_mean"] == 8.0
    assert values["llm_ms_p95"] == pytest.approx(6.0 + 0.9 * 8.0)
    assert values["end_to_end_ms_p50"] == pytest.approx(7.6)
    assert (values["layers_run"], values["controllers_per_inference"], values["jumps_per_inference"]) == (
        14.0,
        3.0,
        1.0,
    )
    assert values["verifications_per_inference"] == pytest.approx(1 / 3) and values["inferences"] == 3
