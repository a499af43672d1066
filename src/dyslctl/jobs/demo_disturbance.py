"""Pushes that demonstrations recover from.

Behaviour cloning drifts: a small mistake leads to a state that no demonstration shows, where the next one is larger.
So now and then something pushes the robot while the expert acts, and what is recorded is the expert's own action: the
way back (DART, Laskey et al. 2017, with noise that lasts: what changes from step to step averages out over a chunk).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyslctl.errors import ConfigError
from dyslctl.suite import Disturb, EpisodeSpec
from dyslctl.types import Observation

LARGEST_SHARE = 0.5
"""An expert that is pushed more often than not shows little but its recoveries."""
STREAM = 0xDA27
"""Keeps the pushes' random numbers apart from those that the same seed drew the scene from."""


@dataclass(frozen=True)
class Disturbance:
    """How an expert is disturbed. Suites that allow it act in ``[-1, 1]``, with the gripper last.

    Attributes:
        share: Of the steps during which a push lasts, in expectation.
        spread: Standard deviation of each dimension of a push, but for the gripper, which obeys.
        steps: How long a push lasts: one chunk.
    """

    share: float
    spread: float = 0.5
    steps: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.share <= LARGEST_SHARE:
            raise ConfigError(f"--disturb: expected a share of the steps up to {LARGEST_SHARE}, found {self.share:g}")

    @property
    def begin(self) -> float:
        """Probability that a push begins at a step without one, ``share / (share + (1 - share) steps)``.

        A push of ``n`` steps then follows on ``(1 - p) / p`` free ones, of which ``n`` are the ``share``.
        """
        return self.share / (self.share + (1 - self.share) * self.steps)

    def of(self, spec: EpisodeSpec) -> Disturb:
        """What happens in the episode ``spec``: the same whenever, and by whichever process, it is recorded."""
        return _Pushes(self, np.random.default_rng((STREAM, spec.seed)))


class _Pushes:
    def __init__(self, how: Disturbance, rng: np.random.Generator) -> None:
        self._how, self._rng = how, rng
        self._left = 0

    def __call__(self, action: np.ndarray, observation: Observation) -> np.ndarray:
        if self._left == 0 and self._rng.random() < self._how.begin:
            self._left = self._how.steps
            self._push = self._rng.normal(0, self._how.spread, len(action) - 1)
        if self._left == 0:
            return action
        self._left -= 1
        pose = np.clip(action[:-1] + self._push, -1, 1)
        return np.append(pose, action[-1]).astype(action.dtype)
