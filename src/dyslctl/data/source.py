"""What every reader of recorded episodes gives: whole episodes by number, and a shuffled stream of frames.

A source is read as it is used. It holds an index of its episodes, never their content; an episode in use holds its
images as they are stored, and each is decoded when it is looked at.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np

from dyslctl.errors import ConfigError
from dyslctl.suite import Demonstration
from dyslctl.types import Observation

Part = Literal["train", "tune"]
"""Episodes to learn from, and those held out to choose thresholds on. They never overlap."""
HELD_OUT = 10
"""Of so many episodes in a row one is held out."""
BUFFER = 256

_T = TypeVar("_T")


@dataclass(frozen=True)
class Sample:
    """One frame, and what was done next.

    Attributes:
        episode: Its number in the source.
        observation: What the robot saw.
        actions: ``[N, A]`` executed actions from here on; past the end the last one is repeated.
        near_flip: The gripper opens or closes within ``N`` steps, before or after.
    """

    episode: int
    observation: Observation = field(repr=False)
    actions: np.ndarray = field(repr=False)
    near_flip: bool


@dataclass(frozen=True)
class Window:
    """Consecutive frames of one instruction, for heads with a memory.

    Attributes:
        episode: Its number in the source.
        observations: ``W`` of them.
        actions: ``[W, A]``, what was executed at each.
    """

    episode: int
    observations: Sequence[Observation] = field(repr=False)
    actions: np.ndarray = field(repr=False)


class DemonstrationSource(ABC):
    """Recorded episodes, numbered from 0; the same number always gives the same episode.

    Attributes:
        name: What artifacts call it: a Hub id with its commit, or the path.
        execute_horizon: Actions executed before the next inference where it was recorded; ``None`` if it does not say.
    """

    name: str
    execute_horizon: int | None = None

    @abstractmethod
    def __len__(self) -> int:
        """How many episodes there are."""

    @abstractmethod
    def episode(self, number: int) -> Demonstration:
        """Read one episode. Its images are decoded when they are looked at.

        Raises:
            ArtifactError: If a row cannot be used, with file and row; a damaged image says so when it is decoded.
        """

    def numbers(self, part: Part) -> list[int]:
        """The episodes of ``part``, ascending: one of :data:`HELD_OUT` in a row is held out, or the last one of fewer.

        Of the first such row it is the last, of the next the last but one, and so on: where ten tasks take turns, the
        last of every row would be always the same task, held out altogether.

        Raises:
            ConfigError: If there is only one episode, so that none could be held out.
        """
        if len(self) < 2:
            raise ConfigError(f"{self.name}: expected at least 2 episodes, one to hold out, found {len(self)}")
        rows = range(len(self) // HELD_OUT)
        held_out = {row * HELD_OUT + HELD_OUT - 1 - row % HELD_OUT for row in rows} or {len(self) - 1}
        return [number for number in range(len(self)) if (number in held_out) == (part == "tune")]

    @cached_property
    def action_dim(self) -> int:
        """``A``, as the first episode has it."""
        return int(self.episode(0).actions.shape[1])

    def samples(
        self,
        chunk_length: int,
        *,
        part: Part = "train",
        gripper_dim: int | None = None,
        per_episode: int | None = None,
        seed: int = 0,
        buffer: int = BUFFER,
    ) -> Iterator[Sample]:
        """Frames of ``part`` in random order: episodes are permuted, and their frames mixed in a buffer.

        Args:
            chunk_length: ``N``.
            part: Which episodes.
            gripper_dim: The action dimension of the gripper, or ``None``.
            per_episode: At most so many frames of an episode, at random; ``None`` takes all.
            seed: Of every choice: equal seeds give equal streams.
            buffer: Frames that wait, images as they are stored; what is drawn comes from a window of that length.
        """
        rng = np.random.default_rng((seed, 0))
        order = rng.permutation(self.numbers(part)).tolist()
        frames = (
            sample
            for number in order
            for sample in _frames(self.episode(number), number, chunk_length, gripper_dim, per_episode, rng)
        )
        return shuffled(frames, buffer, seed)

    def windows(
        self,
        length: int,
        *,
        part: Part = "train",
        per_episode: int | None = None,
        seed: int = 0,
        buffer: int = BUFFER,
    ) -> Iterator[Window]:
        """Windows of ``part`` in random order: every ``length`` consecutive frames of one instruction.

        RoboFlamingo learns from windows of 12. An instruction of fewer steps has none, as in its released loader.

        Args:
            length: ``W``.
            part: Which episodes.
            per_episode: At most so many windows of an episode, at random; ``None`` takes all.
            seed: Of every choice: equal seeds give equal streams.
            buffer: Windows that wait.

        Raises:
            ConfigError: If ``length`` or ``buffer`` is not positive.
        """
        if length < 1:
            raise ConfigError(f"a window holds at least 1 frame, found {length}")
        rng = np.random.default_rng((seed, 0))
        order = rng.permutation(self.numbers(part)).tolist()
        found = (
            window for number in order for window in _windows(self.episode(number), number, length, per_episode, rng)
        )
        return shuffled(found, buffer, seed)


def shuffled(items: Iterable[_T], size: int, seed: int) -> Iterator[_T]:
    """``items`` in random order, ``size`` of them in memory at a time: each new one takes the place of a drawn one.

    Raises:
        ConfigError: If ``size`` is not positive.
    """
    if size < 1:
        raise ConfigError(f"a shuffle buffer holds at least 1 item, found {size}")
    return _shuffled(items, size, np.random.default_rng((seed, 1)))


def _shuffled(items: Iterable[_T], size: int, rng: np.random.Generator) -> Iterator[_T]:
    held: list[_T] = []
    for item in items:
        if len(held) < size:
            held.append(item)
            continue
        place = int(rng.integers(size))
        yield held[place]
        held[place] = item
    yield from (held[place] for place in rng.permutation(len(held)))


def near_flips(actions: np.ndarray, starts: Sequence[int], gripper_dim: int | None, within: int) -> np.ndarray:
    """``[starts]`` bool: does the gripper open or close within ``within`` steps of each start, before or after?

    Args:
        actions: ``[steps, A]`` of one episode, executed or normalised; above 0 the gripper closes.
        starts: Steps.
        gripper_dim: Its action dimension; ``None``: no gripper, never.
        within: Steps.
    """
    if gripper_dim is None or not len(actions):
        return np.zeros(len(starts), bool)
    closed = actions[:, gripper_dim] > 0
    flips = np.flatnonzero(closed[1:] != closed[:-1]) + 1
    return np.array([bool((np.abs(flips - start) <= within).any()) for start in starts], bool)


def _frames(
    episode: Demonstration,
    number: int,
    chunk_length: int,
    gripper_dim: int | None,
    count: int | None,
    rng: np.random.Generator,
) -> Iterator[Sample]:
    chosen = _chosen(np.arange(len(episode.actions)), count, rng)
    near = near_flips(episode.actions, chosen.tolist(), gripper_dim, chunk_length)
    for step, flip in zip(chosen.tolist(), near.tolist(), strict=True):
        yield Sample(number, episode.observations[step], episode.chunk(step, chunk_length), flip)


def _windows(
    episode: Demonstration, number: int, length: int, count: int | None, rng: np.random.Generator
) -> Iterator[Window]:
    words = [observation.instruction for observation in episode.observations]
    starts = [step for step in range(len(words) - length + 1) if len(set(words[step : step + length])) == 1]
    for step in _chosen(np.array(starts, np.int64), count, rng).tolist():
        steps = slice(step, step + length)
        yield Window(number, episode.observations[steps], episode.actions[steps])


def _chosen(steps: np.ndarray, count: int | None, rng: np.random.Generator) -> np.ndarray:
    """``count`` of ``steps``, ascending; ``None``: all."""
    return steps if count is None else np.sort(rng.permutation(steps)[:count])
