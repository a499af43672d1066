"""What a task-suite plugin implements: tasks, fixed initial states, a simulator, and scripted demonstrations.

Register the class under the entry-point group ``dyslctl.suites``. ``dyslctl.testing.check_suite`` proves the contract.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np

from dyslctl.errors import PluginError
from dyslctl.types import Observation

Split = Literal["train", "tune", "test"]
"""Initial states to learn from, to choose thresholds on, and to report on. They never overlap."""
Disturb = Callable[[np.ndarray, Observation], np.ndarray]
"""The action ``[A]`` that an expert means, and what is seen there, to the one that is executed in its place; asked once
an action, in order."""


def undisturbed(action: np.ndarray, observation: Observation) -> np.ndarray:
    """The :data:`Disturb` that executes what is meant."""
    return action


class PaintedViews(Mapping[str, np.ndarray]):
    """Camera images that are painted together when one of them is first looked at.

    A policy looks once a chunk: painting after every action may cost more than everything else in a simulator.
    """

    def __init__(self, names: Sequence[str], paint: Callable[[], Sequence[np.ndarray]]) -> None:
        """``paint`` gives one image ``[height, width, 3]`` uint8 for each of ``names``; it is called at most once."""
        self._names, self._paint = names, paint

    @cached_property
    def _images(self) -> dict[str, np.ndarray]:
        images = dict(zip(self._names, self._paint(), strict=True))
        del self._paint  # it may hold a whole scene
        return images

    def __getitem__(self, view: str) -> np.ndarray:
        return self._images[view]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class EpisodeSpec:
    """One initial state: equal specs give equal episodes, whatever policy runs them.

    Attributes:
        index: Position in its split; the pairing key of paired comparisons.
        task: Task id, e.g. ``"red_to_purple"``.
        seed: What the initial state and any randomness of the episode derive from.
    """

    suite: str
    split: Split
    index: int
    task: str
    seed: int


@dataclass(frozen=True)
class StepResult:
    """What one executed action led to.

    Attributes:
        observation: What the robot sees now.
        done: The episode is over (solved, failed for good, or out of time).
        score: Subtasks solved so far (0 or 1 for a single task, up to 5 for a chain).
        new_instruction: A subtask was solved and the next instruction begins: policies forget their past.
    """

    observation: Observation
    done: bool
    score: int
    new_instruction: bool = False


@dataclass(frozen=True)
class Demonstration:
    """One expert episode, every step of it.

    Attributes:
        observations: ``steps`` observations.
        actions: ``[steps, A]`` the expert's actions in the suite's units; executed, unless it was disturbed.
        score: Subtasks the expert solved. Below ``max_score`` its last instruction is not learnt from.
    """

    spec: EpisodeSpec
    observations: list[Observation] = field(repr=False)
    actions: np.ndarray = field(repr=False)
    score: int = 0

    def chunk(self, step: int, length: int) -> np.ndarray:
        """``[length, A]`` actions from ``step`` on; past the end of the instruction its last action is repeated.

        The next instruction of a chain is not known at ``step``, so its actions are no label.
        """
        end = step
        while end + 1 < min(step + length, len(self.actions)) and self._instruction(end + 1) == self._instruction(step):
            end += 1
        return self.actions[np.minimum(np.arange(step, step + length), end)]

    def _instruction(self, step: int) -> str:
        return self.observations[step].instruction


class Environment(ABC):
    """One simulator. Not thread-safe; workers each make their own."""

    @abstractmethod
    def reset(self, spec: EpisodeSpec) -> Observation:
        """Begin the episode ``spec``."""

    @abstractmethod
    def step(self, action: np.ndarray) -> StepResult:
        """Execute one action ``[A]`` in the suite's units.

        Raises:
            PluginError: If the action is not finite or of another shape.
        """

    @abstractmethod
    def render(self) -> np.ndarray:
        """The scene for a person, ``[height, width, 3]`` uint8."""

    def close(self) -> None:  # noqa: B027 - most simulators hold nothing
        """Free the simulator."""


class TaskSuite(ABC):
    """A set of tasks with fixed initial states.

    Attributes:
        name: Entry-point name.
        max_score: Subtasks in an episode: 1, or the length of the chain.
        max_steps: Longest episode, in actions.
        execute_horizon: Actions of a chunk executed before the next inference, always explicit.
        action_dim: ``A``.
        control_frequency: Actions a second; what recorded demonstrations are stamped with.
        gripper_open: Of an action's last dimension, the value that opens the gripper; the opposite one closes it.
    """

    name: str
    max_score: int
    max_steps: int
    execute_horizon: int
    action_dim: int
    control_frequency: int = 20
    gripper_open: Literal[-1, 1] = -1

    @property
    @abstractmethod
    def tasks(self) -> Sequence[str]:
        """Task ids, in the order episodes go through them."""

    @property
    def demonstrated_tasks(self) -> Sequence[str]:
        """Those of :attr:`tasks` that the scripted expert can do, in their order: all of them, unless a suite says so.

        Empty for a suite without an expert.
        """
        return self.tasks

    @abstractmethod
    def episodes(self, split: Split, count: int) -> list[EpisodeSpec]:
        """The first ``count`` initial states of ``split``, tasks in turn. Always the same ones."""

    def demonstrated_episodes(self, split: Split, count: int) -> list[EpisodeSpec]:
        """The first ``count`` initial states of ``split`` whose task the expert can do. Always the same ones.

        Raises:
            PluginError: If the suite has no expert.
        """
        known = set(self.demonstrated_tasks)
        if not known:
            raise PluginError(f"{self.name} has no scripted expert", hint="name recorded episodes with --data")
        rounds = -(-count // len(known))
        return [spec for spec in self.episodes(split, rounds * len(self.tasks)) if spec.task in known][:count]

    @abstractmethod
    def make(self) -> Environment:
        """A new simulator."""

    def executing(self, actions: int) -> Self:
        """The same suite, with ``actions`` executed before the next inference."""
        other = copy.copy(self)
        other.execute_horizon = actions
        return other

    def identity(self) -> Mapping[str, Any]:
        """What else its episodes depend on, such as simulator versions and renderer, as plain values for JSON.

        Asked when an evaluation begins, which keeps the answer and refuses to be resumed under another one.

        Raises:
            EnvironmentMismatch: If this machine would play other episodes than those meant.
        """
        return {}

    @abstractmethod
    def demonstrate(self, spec: EpisodeSpec) -> Demonstration:
        """The scripted expert's episode from ``spec``.

        Raises:
            PluginError: If the suite has no expert, or its expert cannot do the task.
        """

    def demonstrate_disturbed(self, spec: EpisodeSpec, disturb: Disturb) -> Demonstration:
        """The scripted expert's episode from ``spec``, while something pushes the robot about.

        Executed is ``disturb(action, observation)``; the demonstration holds ``action``, what the expert means to do in
        the state that the pushes led to. So it shows how to find back (DART, Laskey et al. 2017).

        Raises:
            PluginError: If the suite has no such expert: all suites, unless they override this.
        """
        raise PluginError(f"{self.name} has no expert that can be disturbed", hint="record without --disturb")
