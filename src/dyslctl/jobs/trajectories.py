"""Episodes as a model that predicts chunks sees them: one observation an inference, and the chunk that came of it.

Three sources give the same :class:`Trajectory`: the suite's scripted expert; the full model acting in many
environments in lock-step, so that one batched forward pass serves them all; and any policy, one episode at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise

import numpy as np
import torch

from dyslctl.backbone import Backbone
from dyslctl.engine import FullSchedule, forward
from dyslctl.policy import Policy
from dyslctl.suite import Demonstration, Environment, EpisodeSpec, TaskSuite
from dyslctl.types import ActionChunk, LayerState, Observation


@dataclass
class Trajectory:
    """One episode, inference by inference.

    Attributes:
        spec: The episode's initial state.
        observations: What each inference saw.
        chunks: Of each inference, ``[N, A]`` float32 normalised: the expert's next actions, or the model's own.
        executed: Of each inference, how many actions of its chunk were executed.
        score: Subtasks solved.
    """

    spec: EpisodeSpec
    observations: list[Observation] = field(default_factory=list, repr=False)
    chunks: list[np.ndarray] = field(default_factory=list, repr=False)
    executed: list[int] = field(default_factory=list, repr=False)
    score: int = 0

    def __len__(self) -> int:
        return len(self.observations)

    def add(self, observation: Observation, chunk: np.ndarray, executed: int) -> None:
        """Append one inference."""
        self.observations.append(observation)
        self.chunks.append(chunk)
        self.executed.append(executed)

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

    def near_flip(self, gripper_dim: int | None, within: int) -> np.ndarray:
        """``[n]`` bool: does the gripper open or close within ``within`` steps of the inference, before or after?

        This is where episodes are won or lost, and it is rare: samples are stratified by it.
        """
        starts = np.cumsum([0, *self.executed])[:-1]
        if gripper_dim is None or not self.chunks:
            return np.zeros(len(self), bool)
        closed = np.concatenate(self.executed_chunks())[:, gripper_dim] > 0
        flips = np.flatnonzero(closed[1:] != closed[:-1]) + 1
        return np.array([bool((np.abs(flips - start) <= within).any()) for start in starts], bool)


def demonstrate(backbone: Backbone, suite: TaskSuite, spec: EpisodeSpec) -> Trajectory:
    """The scripted expert's episode, cut where a policy would run an inference.

    Raises:
        PluginError: If the suite has no expert.
    """
    demonstration = suite.demonstrate(spec)
    trajectory = Trajectory(spec, score=demonstration.score)
    starts = _inference_steps(demonstration, suite.execute_horizon)
    for step, following in zip(starts, [*starts[1:], len(demonstration.actions)], strict=True):
        chunk = backbone.normalize(demonstration.chunk(step, backbone.spec.chunk_length))
        trajectory.add(demonstration.observations[step], chunk.astype(np.float32), following - step)
    return trajectory


def _inference_steps(demonstration: Demonstration, horizon: int) -> list[int]:
    """Every ``horizon`` steps, and anew at each new instruction: a policy drops the rest of its chunk there."""
    steps: list[int] = []
    words = None
    for step, observation in enumerate(demonstration.observations):
        if observation.instruction != words or step - steps[-1] == horizon:
            steps.append(step)
        words = observation.instruction
    return steps


@torch.no_grad()
def predict_full(backbone: Backbone, observations: Sequence[Observation]) -> list[ActionChunk]:
    """What the full model does: one batched pass through every layer."""
    state = LayerState.of(backbone.encode(observations))
    forward(backbone, state, FullSchedule())
    return backbone.decode_action(backbone.predict(state))


def roll_out(backbone: Backbone, suite: TaskSuite, specs: Sequence[EpisodeSpec], lanes: int) -> Iterator[Trajectory]:
    """The full model's episodes, in the order in which they end.

    Args:
        backbone: Who acts.
        suite: Where.
        specs: The initial states.
        lanes: Environments that run side by side. A head with memory belongs to one episode: it gets one lane.
    """
    waiting = iter(specs)
    width = lanes if backbone.snapshot() is None else 1
    active = [_Lane(suite.make(), spec) for spec in islice(waiting, width)]
    backbone.reset()
    while active:
        for lane, chunk in zip(active, predict_full(backbone, [lane.observation for lane in active]), strict=True):
            if lane.execute(chunk, suite.execute_horizon):
                backbone.reset()
        for lane in [lane for lane in active if lane.done]:
            yield lane.trajectory
            spec = next(waiting, None)
            if spec is None:
                active.remove(lane)
            else:
                lane.begin(spec)


def roll_out_policy(policy: Policy, suite: TaskSuite, specs: Sequence[EpisodeSpec]) -> Iterator[Trajectory]:
    """The episodes of any policy, one after another."""
    environment = suite.make()
    for spec in specs:
        lane = _Lane(environment, spec)
        policy.reset(spec.seed)
        while not lane.done:
            if lane.execute(policy.select_action(lane.observation), suite.execute_horizon):
                policy.reset(spec.seed)
        yield lane.trajectory


class _Lane:
    """One environment of a lock-step rollout."""

    def __init__(self, environment: Environment, spec: EpisodeSpec) -> None:
        self._environment = environment
        self.begin(spec)

    def begin(self, spec: EpisodeSpec) -> None:
        self.trajectory = Trajectory(spec)
        self.observation = self._environment.reset(spec)
        self.done = False

    def execute(self, chunk: ActionChunk, horizon: int) -> bool:
        """Act until the horizon, a new instruction or the end; true if the policy's past ends here."""
        seen, executed = self.observation, 0
        for action in chunk.actions[:horizon]:
            result = self._environment.step(action)
            executed += 1
            if result.done or result.new_instruction:
                break
        self.observation, self.done = result.observation, result.done
        self.trajectory.add(seen, chunk.normalized, executed)
        self.trajectory.score = result.score
        return result.done or result.new_instruction
