from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from dyslctl.engine import ForwardTrace, FullSchedule, LayerSchedule
from dyslctl.policy import Consultation, Encode, Predict, Prediction, SchedulePolicy, StepReport, Stopwatch, full_policy
from dyslctl.types import ActionChunk, LayerState

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach


def test_the_full_policy_executes_the_first_actions_of_the_chunk(
    tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]
) -> None:
    backbone, suite = tiny_backbone(), tiny_suite()
    observation = suite.make().reset(suite.episodes("test", 1)[0])
    policy = SchedulePolicy(backbone, FullSchedule(), execute_horizon=3)
    policy.reset()
    chunk = policy.select_action(observation)
    longer = SchedulePolicy(backbone, FullSchedule(), execute_horizon=4).select_action(observation)
    assert (len(chunk), len(longer)) == (3, 4)
    assert np.array_equal(chunk.actions, longer.actions[:3])
    assert policy.last.layers == tuple(range(8))
    assert (policy.last.layers_run, policy.last.verified, policy.last.consulted) == (8, False, ())
    assert set(policy.last.timings_ms) == {"encode", "llm", "head", "guidance"}


def test_reset_reaches_the_head_and_the_schedule(
    tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]
) -> None:
    class Seeded(LayerSchedule):
        seeds: tuple[int, ...] = ()

        def begin_episode(self, seed: int) -> None:
            self.seeds += (seed,)

    backbone, schedule, suite = tiny_backbone(memory=True), Seeded(), tiny_suite()
    observation = suite.make().reset(suite.episodes("test", 1)[0])
    policy = SchedulePolicy(backbone, schedule, execute_horizon=2)
    policy.reset(7)
    first = policy.select_action(observation).actions
    assert not np.array_equal(policy.select_action(observation).actions, first), "the head remembers"
    policy.reset(8)
    assert np.array_equal(policy.select_action(observation).actions, first)
    assert schedule.seeds == (7, 8)


def test_a_part_measured_twice_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([1.0, 1.5, 2.0, 2.25, 3.0, 3.125])
    monkeypatch.setattr("dyslctl.policy.time.perf_counter", lambda: next(ticks))
    watch = Stopwatch(torch.device("cpu"))
    for part in ("llm", "head", "llm"):
        with watch(part):
            pass
    assert watch.ms == {"llm": 625.0, "head": 250.0}
    assert watch.total_ms == 875.0


def test_a_gpu_is_waited_for_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[torch.device] = []
    monkeypatch.setattr("torch.cuda.synchronize", waits.append)
    second = torch.device("cuda:1")
    with Stopwatch(second)("llm"):
        assert waits == [second]
    assert waits == [second, second]


def test_a_report_counts_repeated_layers() -> None:
    report = StepReport((0, 3, 1, 2, 3), {}, consulted=(Consultation(1, 0.7),), verified=True)
    assert report.layers_run == 5


def test_a_plan_asks_for_an_encoding_then_for_a_prediction(
    tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]
) -> None:
    backbone, suite = tiny_backbone(), tiny_suite()
    observation = suite.make().reset(suite.episodes("test", 1)[0])
    policy = full_policy(backbone, execute_horizon=2)
    plan = policy.plan(observation)
    assert next(plan) == Encode(backbone, observation)
    state = LayerState.of(backbone.encode([observation]))
    assert plan.send(state) == Predict(backbone, state, policy.schedule)
    chunk = ActionChunk(np.zeros((4, 3)), np.ones((4, 3)))
    with pytest.raises(StopIteration) as end:
        plan.send(
            Prediction(chunk, torch.from_numpy(chunk.normalized), ForwardTrace(layers_run=[0, 5], jumps=[(1, 5)]))
        )
    assert np.array_equal(end.value.value.normalized, np.ones((2, 3)))
    assert policy.last == StepReport((0, 5), {}, jumps=((1, 5),), predicted=chunk), "what is not run alone is not timed"


def test_each_part_of_a_step_is_timed(
    tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is read at both ends of a part and goes on by 1, 2, 3, ... seconds within them, by nothing between."""
    ticks = iter([0, 1, 1, 3, 3, 6, 6, 10, 10, 15, 15, 21])
    monkeypatch.setattr("dyslctl.policy.time.perf_counter", lambda: float(next(ticks)))
    suite = tiny_suite()
    policy = full_policy(tiny_backbone(), execute_horizon=2)
    policy.select_action(suite.make().reset(suite.episodes("test", 1)[0]))
    # The plan, encode, the plan, llm, head, the plan.
    assert policy.last.timings_ms == {"guidance": 10e3, "encode": 2e3, "llm": 4e3, "head": 5e3}
    assert policy.last.reprediction_ms == 0


def test_a_twin_shares_the_weights_and_not_the_past(
    tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]
) -> None:
    class Counting(LayerSchedule):
        inferences = 0

        def start(self, state: LayerState) -> None:
            self.inferences += 1

    suite, schedule = tiny_suite(), Counting()
    policy = SchedulePolicy(tiny_backbone(), schedule, execute_horizon=2)
    twin = policy.twin()
    observation = suite.make().reset(suite.episodes("test", 1)[0])
    chunks = [each.select_action(observation).actions for each in (policy, twin, policy)]
    assert np.array_equal(chunks[0], chunks[1])
    assert twin.backbone is policy.backbone
    assert isinstance(twin.schedule, Counting) and (schedule.inferences, twin.schedule.inferences) == (2, 1)
