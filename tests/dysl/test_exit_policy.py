from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from dyslctl.dysl.exit_policy import ExitPolicy, ExitSettings
from dyslctl.dysl.exit_schedule import ExitLadder, FixedExit, PlannedExit
from dyslctl.dysl.exits import ExitModules
from dyslctl.engine import forward
from dyslctl.errors import ConfigError
from dyslctl.policy import StepReport, full_policy
from dyslctl.types import ActionChunk, LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

ALWAYS, NEVER = 99.0, -99.0
"""Thresholds above and below everything that a planner says."""
EMPTY = [0.0] * 13
"""Four actions of three numbers, and no chunk yet."""


def planned(backbone: TinyBackbone, exits: ExitModules, tolerance: float) -> ExitPolicy:
    schedule = PlannedExit(ExitLadder(exits), exits.planner.bind(), tolerance)
    policy = ExitPolicy(backbone, schedule, execute_horizon=2)
    policy.reset()
    return policy


def memory_of(policy: ExitPolicy) -> list[float]:
    """What the last inference was told."""
    (memory,) = policy.schedule.memory.tolist()
    return [float(number) for number in memory]


def told(chunk: ActionChunk | None) -> list[float]:
    """The memory that ``chunk`` leaves behind."""
    assert chunk is not None
    return [*chunk.normalized.flatten().tolist(), 1.0]


def test_a_tolerance_below_everything_gives_the_full_models_actions(
    backbone: TinyBackbone, exits: ExitModules, observations: list[Observation]
) -> None:
    policy, full = planned(backbone, exits, NEVER), full_policy(backbone, 2)
    full.reset()
    for observation in observations:
        assert np.array_equal(policy.select_action(observation).actions, full.select_action(observation).actions)
        assert policy.last.layers_run == 8 and policy.last.jumps == ()


def test_the_report_of_an_exit(backbone: TinyBackbone, exits: ExitModules, observations: list[Observation]) -> None:
    policy = planned(backbone, exits, ALWAYS)
    chunk, report = policy.select_action(observations[0]), policy.last
    assert len(chunk) == 2 and set(report.timings_ms) == {"encode", "llm", "head", "guidance"}
    assert (report.layers, report.jumps, report.verified) == ((0, 1), ((2, 8),), False)
    ((asked,),) = (report.consulted,)
    assert asked.layer == 2 and -20 < asked.answer < ALWAYS
    assert report.reprediction_ms == 0
    assert report.predicted is not None and len(report.predicted) == 4
    assert np.array_equal(report.predicted.actions[:2], chunk.actions)


def test_the_whole_chunk_is_remembered_and_forgotten_at_reset(
    backbone: TinyBackbone, exits: ExitModules, observations: list[Observation]
) -> None:
    """Two of four actions are executed; the next inference is told all four."""
    policy = planned(backbone, exits, ALWAYS)
    policy.select_action(observations[0])
    assert memory_of(policy) == EMPTY
    for before, observation in enumerate(observations[1:4]):
        last = policy.last.predicted
        policy.select_action(observation)
        assert memory_of(policy) == pytest.approx(told(last)), before
    policy.reset()
    policy.select_action(observations[4])
    assert memory_of(policy) == EMPTY


def test_full_passes_are_remembered_too(
    backbone: TinyBackbone, exits: ExitModules, observations: list[Observation]
) -> None:
    policy = planned(backbone, exits, NEVER)
    policy.select_action(observations[0])
    last = policy.last.predicted
    policy.select_action(observations[1])
    assert memory_of(policy) == pytest.approx(told(last))


def test_exits_that_do_not_remember_are_told_nothing(
    backbone: TinyBackbone, exits: ExitModules, observations: list[Observation]
) -> None:
    exits.sizes = dataclasses.replace(exits.sizes, remembers=False)
    policy = planned(backbone, exits, ALWAYS)
    for observation in observations[:3]:
        policy.select_action(observation)
        assert memory_of(policy) == EMPTY


def test_what_was_meant_changes_what_comes_next(
    backbone: TinyBackbone, exits: ExitModules, observations: list[Observation]
) -> None:
    """The second action by hand: the prefix, the adapter told of the first chunk, the head."""
    policy = planned(backbone, exits, ALWAYS)
    policy.select_action(observations[0])
    memory = torch.tensor([told(policy.last.predicted)])
    second = policy.select_action(observations[2])
    leave, state = FixedExit(ExitLadder(exits), 2), LayerState.of(backbone.encode([observations[2]]))
    leave.memory = memory
    forward(backbone, state, leave)
    (expected,) = backbone.decode_action(backbone.predict(state))
    np.testing.assert_allclose(second.actions, expected.actions[:2], atol=1e-6)
    policy.reset()
    fresh = policy.select_action(observations[2])
    assert np.abs(fresh.actions[:, :2] - second.actions[:, :2]).max() > 1e-4


def test_reset_makes_an_episode_repeatable(
    tiny_backbone: type[TinyBackbone], exits: ExitModules, observations: list[Observation]
) -> None:
    policy = planned(tiny_backbone(memory=True), exits, ALWAYS)
    runs = []
    for _ in range(2):
        policy.reset()
        runs.append([(policy.select_action(o).actions.tolist(), policy.last.layers) for o in observations])
    assert runs[0] == runs[1]


def middle(backbone: TinyBackbone, exits: ExitModules, observations: list[Observation]) -> float:
    """A tolerance at which not all inferences leave at one place."""
    for tolerance in np.linspace(-4, 4, 81).tolist():
        policy, places = planned(backbone, exits, tolerance), set()
        for observation in observations:
            policy.select_action(observation)
            places.add(policy.last.layers_run)
        if len(places) > 1:
            break
    return float(tolerance)


def test_side_by_side_every_policy_decides_as_it_does_alone(
    backbone: TinyBackbone,
    exits: ExitModules,
    observations: list[Observation],
    side_by_side: Callable[..., dict[int, list[tuple[np.ndarray, StepReport]]]],
) -> None:
    """Several exits and instructions of two lengths; each lane remembers its own last chunk."""
    policy = planned(backbone, exits, middle(backbone, exits, observations))
    tasks = [observations[:12], observations[10:22], observations[20:], observations[5:20]]
    together = side_by_side(policy, tasks)
    for number, task in enumerate(tasks):
        policy.reset()
        alone = [(policy.select_action(observation).actions, policy.last) for observation in task]
        for (actions, report), (expected, last) in zip(together[number], alone, strict=True):
            np.testing.assert_allclose(actions, expected, atol=1e-5)
            assert (report.layers, report.jumps) == (last.layers, last.jumps)
    assert len({report.layers_run for steps in together.values() for _, report in steps}) > 1


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="expected a number"):
        ExitSettings(float("nan"))
