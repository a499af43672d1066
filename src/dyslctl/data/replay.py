"""Recorded episodes in the place of a simulator: whatever the policy does, the next frame is the recorded one.

Everything that visits states, cuts them where an inference would run, and remembers what was predicted there, works on
recordings as on robots. What it cannot show is where a policy's own mistakes lead: the scene follows the recorded
actions. A policy's mistakes in its *memory* are its own, since it remembers what it predicted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dyslctl.data.source import DemonstrationSource, Part
from dyslctl.errors import ConfigError, PluginError
from dyslctl.suite import Demonstration, Environment, EpisodeSpec, Split, StepResult, TaskSuite
from dyslctl.types import Observation

MAX_STEPS = 1_000_000
"""A recording ends by itself."""


class RecordedSuite(TaskSuite):
    """A source as a task suite. Nobody knows whether an episode was solved: the score is always 0.

    The ``train`` and ``tune`` episodes come in random order. Whoever asks for more than there are gets them again, in
    another order and one step later into the recording, so that other frames are where inferences run.
    """

    max_score = 1
    max_steps = MAX_STEPS

    def __init__(self, source: DemonstrationSource, execute_horizon: int, seed: int = 0) -> None:
        """Wrap ``source``.

        Args:
            source: The episodes.
            execute_horizon: Actions that the robot will execute before the next inference; a recording does not say.
            seed: Of the order.

        Raises:
            ArtifactError: If the first episode cannot be read.
            ConfigError: If ``execute_horizon`` is not positive.
        """
        if execute_horizon < 1:
            raise ConfigError(f"execute_horizon: expected at least 1, found {execute_horizon}")
        self.source, self.execute_horizon, self._seed = source, execute_horizon, seed
        self.name, self.action_dim = source.name, source.action_dim

    @property
    def tasks(self) -> Sequence[str]:
        """One: a recording's instructions are known when it is read."""
        return ("recorded",)

    def episodes(self, split: Split, count: int) -> list[EpisodeSpec]:
        """See the class.

        Raises:
            ConfigError: If ``split`` is ``test``: a recording shows no success to report.
        """
        if split == "test":
            raise ConfigError(f"{self.name}: recorded episodes have no test split", hint="dyslctl eval --suite NAME")
        numbers = self.source.numbers(split)
        passes = -(-count // len(numbers))
        # The seed of a spec tells both the episode and the pass: equal specs give equal episodes.
        seeds = [
            int(number) + turn * len(self.source)
            for turn in range(passes)
            for number in np.random.default_rng((self._seed, turn)).permutation(numbers)
        ]
        return [EpisodeSpec(self.name, split, index, self.tasks[0], seed) for index, seed in enumerate(seeds[:count])]

    def available(self, part: Part, count: int) -> int:
        """``count`` episodes, or as many as ``part`` has: no frame twice."""
        return min(count, len(self.source.numbers(part)))

    def make(self) -> Environment:
        """A player."""
        return Replay(self)

    def demonstrate(self, spec: EpisodeSpec) -> Demonstration:
        """The recorded episode, from where :meth:`make`'s player begins it.

        It counts as solved, like all that is recorded to be learnt from: nobody says what it came to.
        """
        turn, number = divmod(spec.seed, len(self.source))
        found = self.source.episode(number)
        first = turn % self.execute_horizon if len(found.actions) > self.execute_horizon else 0
        return Demonstration(spec, found.observations[first:], found.actions[first:], self.max_score)


class Replay(Environment):
    """Shows the recorded frames one after the other."""

    def __init__(self, suite: RecordedSuite) -> None:
        self._suite = suite
        self._frames: Sequence[Observation] = ()
        self._step = 0

    def reset(self, spec: EpisodeSpec) -> Observation:
        """The first frame of ``spec``."""
        self._frames, self._step = self._suite.demonstrate(spec).observations, 0
        return self._frames[0]

    def step(self, action: np.ndarray) -> StepResult:
        """The next frame, whatever ``action`` is; after the last one there is none.

        Raises:
            PluginError: If ``action`` is not finite or of another shape.
        """
        if action.shape != (self._suite.action_dim,) or not np.isfinite(action).all():
            raise PluginError(f"expected a finite action [{self._suite.action_dim}], found {action}")
        before = self._frames[self._step]
        last = len(self._frames) - 1
        self._step = min(self._step + 1, last)
        seen = self._frames[self._step]
        done = self._step == last
        return StepResult(seen, done, 0, new_instruction=not done and seen.instruction != before.instruction)

    def render(self) -> np.ndarray:
        """The first view."""
        return next(iter(self._frames[self._step].images.values()))
