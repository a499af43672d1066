"""A policy that drives now and then, while the expert says what it would do: demonstrations of where a policy gets to.

What a policy learns from an expert's own episodes, pushes or not, are not the states that its own mistakes lead to
(DAgger, Ross et al. 2011). It drives for stretches, and the expert in between, so that an episode gets on.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from dyslctl.jobs.demo_disturbance import Disturbance
from dyslctl.policy import Policy
from dyslctl.suite import Disturb, EpisodeSpec
from dyslctl.types import Observation

STRETCH = 16
"""Steps that a policy drives for at least: long enough for mistakes, too short to lose the expert."""
STREAM = 0xDA66
"""Keeps these random numbers apart from those that the same seed drew the scene from."""


@dataclass(frozen=True)
class Driver:
    """Whoever drives for a ``share`` of the steps.

    Attributes:
        policy: It is reset where it takes over, and with each instruction.
        horizon: Actions of a chunk that are executed.
        share: Of the steps, in expectation.
    """

    policy: Policy
    horizon: int
    share: float

    def of(self, spec: EpisodeSpec) -> Disturb:
        """Who drives when in the episode ``spec``."""
        begin = Disturbance(self.share, steps=STRETCH).begin
        return _Stretches(self.policy, self.horizon, begin, np.random.default_rng((STREAM, spec.seed)))


@dataclass
class _Stretches:
    policy: Policy
    horizon: int
    begin: float
    rng: np.random.Generator
    left: int = 0
    instruction: str = ""
    chunk: deque[np.ndarray] = field(default_factory=deque)

    def __call__(self, action: np.ndarray, observation: Observation) -> np.ndarray:
        taking_over = self.left == 0 and self.rng.random() < self.begin
        if taking_over:
            self.left = STRETCH
        if self.left == 0:
            return action
        self.left -= 1
        if taking_over or observation.instruction != self.instruction:
            self.policy.reset()
            self.chunk.clear()
            self.instruction = observation.instruction
        if not self.chunk:
            self.chunk.extend(self.policy.select_action(observation).actions[: self.horizon])
        return self.chunk.popleft().astype(action.dtype)
