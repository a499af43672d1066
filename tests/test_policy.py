from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from dyslctl.engine import FullSchedule, LayerSchedule
from dyslctl.policy import Consultation, SchedulePolicy, StepReport, Stopwatch

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
