from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from dyslctl.dysl.guidance import GuidanceSettings
from dyslctl.dysl.policy import DySLPolicy
from dyslctl.dysl.skip_modules import SkipModules
from dyslctl.engine import FullSchedule, Jump
from dyslctl.policy import SchedulePolicy, StepReport
from dyslctl.types import LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

SKIP = GuidanceSettings(-1e-4, 0.0, k=1, tau=0.0)


def full_policy(backbone: TinyBackbone) -> SchedulePolicy:
    policy = SchedulePolicy(backbone, FullSchedule(), execute_horizon=2)
    policy.reset()
    return policy


def dysl_policy(
    backbone: TinyBackbone,
    modules: SkipModules,
    settings: GuidanceSettings = SKIP,
    *,
    pre_skip: bool = True,
    post_skip: bool = True,
) -> DySLPolicy:
    policy = DySLPolicy(backbone, modules, settings, 2, pre_skip=pre_skip, post_skip=post_skip)
    policy.reset()
    return policy


def test_controllers_that_never_skip_give_the_full_models_actions(
    backbone: TinyBackbone, modules: SkipModules, observations: list[Observation]
) -> None:
    dysl = dysl_policy(backbone, modules, GuidanceSettings(-1e-4, 0.0, k=1, tau=1.0))
    full = full_policy(backbone)
    for observation in observations:
        assert np.array_equal(dysl.select_action(observation).actions, full.select_action(observation).actions)
        assert not dysl.last.verified, "a pass that ran every layer is not repeated"


def test_the_report_of_a_skip_and_of_a_verification(
    backbone: TinyBackbone, modules: SkipModules, observations: list[Observation]
) -> None:
    policy, full = dysl_policy(backbone, modules, pre_skip=False), full_policy(backbone)
    verified = []
    for observation in observations:
        chunk, report = policy.select_action(observation), policy.last
        assert len(chunk) == 2
        assert report.predicted is not None and len(report.predicted) == 4
        assert np.array_equal(report.predicted.actions[:2], chunk.actions)
        assert set(report.timings_ms) == {"encode", "llm", "head", "guidance"}
        assert report.jumps == ((1, 3), (4, 7))
        assert [c.layer for c in report.consulted] == [1, 4]
        resumed = (1, 2, 3, 4, 5, 6, 7) if report.verified else ()
        assert report.layers == (0, 3, 7, *resumed)
        assert report.layers_run == (10 if report.verified else 3)
        assert (report.reprediction_ms > 0) == report.verified
        if report.verified:
            assert np.array_equal(chunk.actions, full.select_action(observation).actions)
        verified.append(report.verified)
    assert True in verified and False in verified


def test_moved_points_force_layers_at_the_next_inference(
    backbone: TinyBackbone, modules: SkipModules, observations: list[Observation]
) -> None:
    policy = dysl_policy(backbone, modules, post_skip=False)
    forced = []
    for observation in observations:
        before = policy.guidance.allow_points.protected_fraction
        policy.select_action(observation)
        forced.append(before)
        assert (policy.last.layers_run == 8) == (before == 1.0)
        assert not policy.last.verified
    assert 0.0 in forced and 1.0 in forced


def test_without_pre_skip_prediction_every_inference_skips(
    backbone: TinyBackbone, modules: SkipModules, observations: list[Observation]
) -> None:
    policy = dysl_policy(backbone, modules, pre_skip=False, post_skip=False)
    for observation in observations:
        policy.select_action(observation)
        assert policy.last.layers_run == 3


@pytest.mark.parametrize("warm_up", [3, 20])
def test_a_heads_memory_after_verification_is_that_of_one_full_prediction(
    tiny_backbone: type[TinyBackbone], modules: SkipModules, observations: list[Observation], warm_up: int
) -> None:
    """Both regimes of a RoboFlamingo head: carrying its state (<= 12 calls) and replaying its window."""
    ours, reference = tiny_backbone(memory=True), tiny_backbone(memory=True)
    policy, full = dysl_policy(ours, modules, pre_skip=False), full_policy(reference)
    checked = 0
    for step, observation in enumerate(observations):
        before = ours.snapshot()
        chunk = policy.select_action(observation)
        if step < warm_up or not policy.last.verified:
            continue
        reference.restore(before)
        assert np.array_equal(full.select_action(observation).actions, chunk.actions)
        assert_same_memory(ours.snapshot(), reference.snapshot())
        checked += 1
        if warm_up == 3 and step >= 11:
            break
    assert checked > 0


def assert_same_memory(one: object, two: object) -> None:
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_reset_makes_an_episode_repeatable(
    tiny_backbone: type[TinyBackbone], modules: SkipModules, observations: list[Observation]
) -> None:
    policy = dysl_policy(tiny_backbone(memory=True), modules)
    runs = []
    for _ in range(2):
        policy.reset()
        runs.append([(policy.select_action(o).actions.tolist(), policy.last.layers) for o in observations])
    assert runs[0] == runs[1]


def test_a_twin_shares_the_adapters_and_not_the_guidance(
    backbone: TinyBackbone, modules: SkipModules, observations: list[Observation]
) -> None:
    policy = dysl_policy(backbone, modules)
    twin, fresh = policy.twin(), dysl_policy(backbone, modules)
    for observation in observations[:20]:
        policy.select_action(observation)
    assert policy.guidance.allow_points.points != fresh.guidance.allow_points.points
    for observation in observations[20:]:
        assert np.array_equal(twin.select_action(observation).actions, fresh.select_action(observation).actions)
        assert twin.last.layers == fresh.last.layers
        assert twin.guidance.allow_points.points == fresh.guidance.allow_points.points


def test_a_twin_shares_the_adapters(
    backbone: TinyBackbone, modules: SkipModules, observations: list[Observation]
) -> None:
    policy, state = dysl_policy(backbone, modules), LayerState.of(backbone.encode(observations[:1]))
    mine, its = (each.schedule.before(1, state) for each in (policy, policy.twin()))
    assert isinstance(mine, Jump) and isinstance(its, Jump)
    assert its.through is mine.through


@pytest.mark.parametrize("memory", [False, True])
def test_side_by_side_every_policy_decides_as_it_does_alone(
    tiny_backbone: type[TinyBackbone],
    memory: bool,
    modules: SkipModules,
    observations: list[Observation],
    side_by_side: Callable[..., dict[int, list[tuple[np.ndarray, StepReport]]]],
) -> None:
    """Skips, verifications and moving points: each lane has its own, and a memory, with instructions of two lengths."""
    policy = dysl_policy(tiny_backbone(memory=memory), modules)
    tasks = [observations[:15], observations[10:25], observations[20:], observations[5:20]]
    together = side_by_side(policy, tasks)
    for number, task in enumerate(tasks):
        policy.reset()
        alone = [(policy.select_action(observation).actions, policy.last) for observation in task]
        for (actions, report), (expected, last) in zip(together[number], alone, strict=True):
            np.testing.assert_allclose(actions, expected, atol=1e-5)
            assert (report.layers, report.jumps, report.verified) == (last.layers, last.jumps, last.verified)
            assert [asked.layer for asked in report.consulted] == [asked.layer for asked in last.consulted]
            assert (report.timings_ms, report.reprediction_ms) == ({}, 0.0)
    reports = [report for steps in together.values() for _, report in steps]
    assert {report.verified for report in reports} == {True, False}
    assert len({report.jumps for report in reports}) > 1
