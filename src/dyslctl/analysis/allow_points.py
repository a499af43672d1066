"""How the skipping-allow points move through one episode of ``dysl-paper`` (Fig. 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dyslctl.analysis.wrapped import Wrapped
from dyslctl.dysl.policy import DySLPolicy
from dyslctl.errors import ConfigError
from dyslctl.jobs.episodes import act
from dyslctl.jobs.lockstep import run_together
from dyslctl.policy import Plan, Policy
from dyslctl.suite import EpisodeSpec, TaskSuite
from dyslctl.types import ActionChunk, Observation


@dataclass(frozen=True)
class Moment:
    """One inference.

    Attributes:
        step: Actions executed before it.
        executed: Of its own.
        points: Of each segment, the position of its allow point during this inference: 0 (every controller may decide)
            to the number of its dynamic layers (all of them run).
        layers: Executed, those of a second prediction counted.
        jumps: Segments that the first pass jumped over.
        verified: Predicted again with every layer.
        delta: The lowest ``delta C`` of the executed chunk, ``None`` while undefined.
        continuity: ``C`` after it.
        gripper: As executed last, +1 or -1; ``None`` without a gripper.
    """

    inference: int
    step: int
    executed: int
    points: tuple[int, ...]
    layers: int
    jumps: int
    verified: bool
    delta: float | None
    continuity: float | None
    gripper: float | None

    @property
    def stop(self) -> int:
        """Actions executed after it."""
        return self.step + self.executed


@dataclass(frozen=True)
class Trace:
    """One episode.

    Attributes:
        spec: Its initial state.
        instruction: The first one.
        solved: All subtasks.
        steps: Executed actions.
        segments: Dynamic layers of each segment.
        eta_1, eta_2: The thresholds of Eq. 2 and 3.
        moments: One an inference.
        frames: ``[height, width, 3]`` uint8, the scene after each inference's actions.
    """

    spec: EpisodeSpec
    instruction: str
    solved: bool
    steps: int
    segments: tuple[tuple[int, ...], ...]
    eta_1: float
    eta_2: float
    moments: Sequence[Moment]
    frames: Sequence[np.ndarray] = field(repr=False)


def trace(policy: Policy, suite: TaskSuite, spec: EpisodeSpec) -> Trace:
    """Play one episode and watch the allow points.

    Raises:
        ConfigError: If the policy has none.
    """
    if not isinstance(policy, DySLPolicy) or not policy.pre_skip:
        raise ConfigError("allow points: expected a policy with skipping-allow points", hint="--method dysl-paper")
    environment, watched = suite.make(), _Watched(policy)
    moments, frames = list[Moment](), list[np.ndarray]()

    def visit(seen: Observation, chunk: ActionChunk, executed: int) -> None:
        moments.append(watched.moment(moments[-1] if moments else None, chunk, executed))
        frames.append(environment.render())

    try:
        outcomes = run_together([lambda task: act(environment, watched, task, suite, visit, alone=False)], [spec])
        ((score, steps),) = outcomes
    finally:
        environment.close()
    settings = policy.guidance.settings
    segments = tuple(tuple(segment.layers) for segment in policy.guidance.allow_points.segments)
    solved = score >= suite.max_score
    return Trace(spec, watched.instruction, solved, steps, segments, settings.eta_1, settings.eta_2, moments, frames)


class _Watched(Wrapped):
    """Remembers where the allow points stood when an inference began.

    Attributes:
        instruction: The first one.
    """

    inner: DySLPolicy

    def __init__(self, inner: DySLPolicy) -> None:
        super().__init__(inner)
        self.instruction = ""
        self._positions: tuple[int, ...] = ()

    def plan(self, observation: Observation) -> Plan:
        """The inner policy's step."""
        self.instruction = self.instruction or observation.instruction
        self._positions = self.inner.guidance.allow_points.positions
        return (yield from super().plan(observation))

    def moment(self, before: Moment | None, chunk: ActionChunk, executed: int) -> Moment:
        """The inference that was just executed."""
        report, gripper_dim = self.last, self.backbone.spec.gripper_dim
        return Moment(
            0 if before is None else before.inference + 1,
            0 if before is None else before.stop,
            executed,
            self._positions,
            report.layers_run,
            len(report.jumps),
            report.verified,
            report.delta_continuity,
            report.continuity,
            None if gripper_dim is None else float(chunk.normalized[executed - 1, gripper_dim]),
        )
