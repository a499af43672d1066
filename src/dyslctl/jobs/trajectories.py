"""Episodes as a model that predicts chunks sees them: one observation an inference, and the chunk that came of it.

Two sources give the same :class:`Trajectory`: the suite's scripted expert, and any policy, acting in many environments
in lock-step.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.data.source import near_flips
from dyslctl.engine import FullSchedule, forward
from dyslctl.jobs.episodes import act
from dyslctl.jobs.lockstep import Coroutine, run_together
from dyslctl.jobs.simulators import simulators
from dyslctl.policy import Policy
from dyslctl.suite import Demonstration, Environment, EpisodeSpec, TaskSuite
from dyslctl.types import ActionChunk, LayerState, Observation


@dataclass
class Trajectory:
    """One episode, inference by inference.

    Attributes:
        spec: The episode's initial state.
        observations: What each inference saw.
        chunks: Of each inference, float32 normalised: the expert's next actions ``[N, A]``, or those the policy chose
            to execute.
        predicted: Of each inference, ``[N, A]`` float32 normalised, gripper as executed: the whole chunk as it was
            meant.
        executed: Of each inference, how many actions of its chunk were executed.
        histories: What the head remembered after each inference; ``None`` if that is nothing.
        score: Subtasks solved.
    """

    spec: EpisodeSpec
    observations: list[Observation] = field(default_factory=list, repr=False)
    chunks: list[np.ndarray] = field(default_factory=list, repr=False)
    predicted: list[np.ndarray] = field(default_factory=list, repr=False)
    executed: list[int] = field(default_factory=list, repr=False)
    histories: list[Tensor | None] = field(default_factory=list, repr=False)
    score: int = 0

    def __len__(self) -> int:
        return len(self.observations)

    def add(
        self,
        observation: Observation,
        chunk: np.ndarray,
        predicted: np.ndarray,
        executed: int,
        history: Tensor | None = None,
    ) -> None:
        """Append one inference."""
        self.observations.append(observation)
        self.chunks.append(chunk)
        self.predicted.append(predicted)
        self.executed.append(executed)
        self.histories.append(history)

    def remembered(self) -> list[np.ndarray | None]:
        """Of each inference, the chunk predicted by the one before; ``None`` where an instruction begins."""
        fresh = set(self.restarts())
        return [None if index in fresh else self.predicted[index - 1] for index in range(len(self))]

    def head_histories(self) -> list[Tensor | None]:
        """Of each inference, what the head remembered before it; ``None`` where an instruction begins."""
        fresh = set(self.restarts())
        return [None if index in fresh else self.histories[index - 1] for index in range(len(self))]

    def executed_chunks(self) -> list[np.ndarray]:
        """``[n_i, A]`` of each inference: the actions that moved the robot."""
        return [chunk[:count] for chunk, count in zip(self.chunks, self.executed, strict=True)]

    def recordings(self) -> list[list[np.ndarray]]:
        """The executed chunks of each instruction: continuity does not reach over a restart."""
        chunks, borders = self.executed_chunks(), [*self.restarts(), len(self)]
        return [chunks[a:b] for a, b in pairwise(borders)]

    def restarts(self) -> list[int]:
        """The inferences that begin an instruction; policies forget their past there. The first is always 0."""
        words = [observation.instruction for observation in self.observations]
        return [i for i in range(len(words)) if i == 0 or words[i] != words[i - 1]]

    def solved(self, max_score: int) -> Trajectory:
        """What led to something: all of it, or without the last instruction, in which the episode failed.

        ``max_score``: subtasks of an episode that is solved.
        """
        if self.score >= max_score or not self.observations:
            return self
        end = self.restarts()[-1]
        return replace(
            self,
            observations=self.observations[:end],
            chunks=self.chunks[:end],
            predicted=self.predicted[:end],
            executed=self.executed[:end],
            histories=self.histories[:end],
        )

    def near_flip(self, gripper_dim: int | None, within: int) -> np.ndarray:
        """``[n]`` bool: does the gripper open or close within ``within`` steps of the inference, before or after?

        This is where episodes are won or lost, and it is rare: samples are stratified by it.
        """
        if not self.chunks:
            return np.zeros(0, bool)
        starts = np.cumsum([0, *self.executed])[:-1]
        return near_flips(np.concatenate(self.executed_chunks()), starts.tolist(), gripper_dim, within)


def demonstrate(backbone: Backbone, suite: TaskSuite, spec: EpisodeSpec, *, follow: bool = False) -> Trajectory:
    """The scripted expert's episode, cut where a policy would run an inference.

    ``follow``: a head with memory watches it; that costs a pass at every inference, and all pictures.

    Raises:
        PluginError: If the suite has no expert.
    """
    demonstration = suite.demonstrate(spec)
    trajectory = Trajectory(spec, score=demonstration.score)
    starts = inference_steps(demonstration, suite.execute_horizon)
    for step, following in zip(starts, [*starts[1:], len(demonstration.actions)], strict=True):
        chunk = backbone.normalize(demonstration.chunk(step, backbone.spec.chunk_length)).astype(np.float32)
        (meant,) = backbone.decode_action(torch.from_numpy(chunk)[None])
        trajectory.add(demonstration.observations[step], chunk, meant.normalized, following - step)
    if follow:
        trajectory.histories = _followed(backbone, trajectory)
    return trajectory


@torch.no_grad()
def _followed(backbone: Backbone, trajectory: Trajectory) -> list[Tensor | None]:
    """What the full model's head would remember after each inference, had it watched the expert."""
    backbone.reset()
    if backbone.history() is None:
        return [None] * len(trajectory)
    fresh, found = set(trajectory.restarts()), list[Tensor | None]()
    for index, observation in enumerate(trajectory.observations):
        if index in fresh:
            backbone.reset()
        state = LayerState.of(backbone.encode([observation]))
        forward(backbone, state, FullSchedule())
        backbone.predict(state)
        found.append(backbone.history())
    backbone.reset()
    return found


def inference_steps(demonstration: Demonstration, horizon: int) -> list[int]:
    """Every ``horizon`` steps, and anew at each new instruction: a policy drops the rest of its chunk there."""
    steps: list[int] = []
    words = None
    for step, observation in enumerate(demonstration.observations):
        if observation.instruction != words or step - steps[-1] == horizon:
            steps.append(step)
        words = observation.instruction
    return steps


def roll_out(
    policy: Policy, suite: TaskSuite, specs: Sequence[EpisodeSpec], lanes: int = 1, processes: int = 1
) -> Generator[Trajectory]:
    """The episodes of ``policy``, in the order in which they end. Close it (``contextlib.closing``) if left early.

    Args:
        policy: Who acts.
        suite: Where.
        specs: The initial states.
        lanes: Episodes that run side by side.
        processes: That their simulators are spread over.

    Raises:
        EnvironmentMismatch: If a simulator's process dies.
    """
    if not specs:
        return
    width = min(lanes, len(specs))
    policies = [policy, *(policy.twin() for _ in range(width - 1))]
    with simulators(suite, width, processes) as environments:
        lane = [partial(_record, *each, suite) for each in zip(environments, policies, strict=True)]
        yield from run_together(lane, specs)


def _record(environment: Environment, policy: Policy, suite: TaskSuite, spec: EpisodeSpec) -> Coroutine[Trajectory]:
    trajectory = Trajectory(spec)

    def add(seen: Observation, chunk: ActionChunk, executed: int) -> None:
        predicted = policy.last.predicted or chunk
        trajectory.add(seen, chunk.normalized, predicted.normalized, executed, policy.backbone.history())

    trajectory.score, _ = yield from act(environment, policy, spec, suite, add, alone=False)
    return trajectory
