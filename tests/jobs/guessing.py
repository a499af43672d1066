"""A suite without pictures or models: name the number you are shown. Also a program, to be killed by a test.

Each subtask shows a number as proprioception; an action closer than 0.5 to it solves the subtask. Episodes last at most
``max_steps`` actions. Policies add seeded noise, so that success varies but repeats.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np

from dyslctl.errors import ConfigError
from dyslctl.jobs.rollout import evaluate
from dyslctl.policy import Consultation, Plan, Policy, StepReport
from dyslctl.suite import Demonstration, Environment, EpisodeSpec, Split, StepResult, TaskSuite
from dyslctl.types import ActionChunk, Observation


class GuessingSuite(TaskSuite):
    name, max_steps, execute_horizon, action_dim = "guessing", 6, 2, 1

    def __init__(self, max_score: int = 1) -> None:
        self.max_score = max_score

    @property
    def tasks(self) -> Sequence[str]:
        return ("guess",)

    def episodes(self, split: Split, count: int) -> list[EpisodeSpec]:
        return [EpisodeSpec(self.name, split, index, "guess", 100 + index) for index in range(count)]

    def make(self) -> Environment:
        return GuessingWorld(self.max_score, self.max_steps)

    def demonstrate(self, spec: EpisodeSpec) -> Demonstration:
        raise NotImplementedError


class GuessingWorld(Environment):
    def __init__(self, max_score: int, max_steps: int) -> None:
        self.max_score, self.max_steps = max_score, max_steps

    def reset(self, spec: EpisodeSpec) -> Observation:
        self.numbers = np.random.default_rng(spec.seed).integers(0, 10, self.max_score + 1)
        self.score = self.steps = 0
        return self._observe()

    def step(self, action: np.ndarray) -> StepResult:
        self.steps += 1
        solved = abs(float(action[0]) - float(self.numbers[self.score])) < 0.5
        self.score += solved
        done = self.score == self.max_score or self.steps == self.max_steps
        return StepResult(self._observe(), done, self.score, new_instruction=solved and not done)

    def render(self) -> np.ndarray:
        return np.zeros((1, 1, 3), np.uint8)

    def _observe(self) -> Observation:
        return Observation({}, "guess", self.numbers[self.score : self.score + 1].astype(np.float32))


class AccidentSuite(GuessingSuite):
    """Calls ``befall`` with the seed of each episode that begins; it may end the process."""

    def __init__(self, befall: Callable[[int], None]) -> None:
        super().__init__()
        self.befall = befall

    def make(self) -> Environment:
        return AccidentWorld(self)


class AccidentWorld(GuessingWorld):
    made = closed = 0

    def __init__(self, suite: AccidentSuite) -> None:
        super().__init__(suite.max_score, suite.max_steps)
        self.befall = suite.befall
        AccidentWorld.made += 1

    def reset(self, spec: EpisodeSpec) -> Observation:
        self.befall(spec.seed)
        return super().reset(spec)

    def close(self) -> None:
        AccidentWorld.closed += 1
        raise RuntimeError("cannot close what is broken")


class NoisyGuesser(Policy):
    """Two guesses an inference; the chance of being right falls with ``noise``. Runs ``layers`` layers."""

    def __init__(self, noise: float, layers: int = 4, delay: float = 0.0) -> None:
        self.noise, self.layers, self.delay = noise, layers, delay
        self.seeds: list[int] = []

    def reset(self, seed: int = 0) -> None:
        self.seeds.append(seed)
        self.rng = np.random.default_rng(seed)

    def twin(self) -> Self:
        return deepcopy(self)

    def plan(self, observation: Observation) -> Plan:
        chunk = self.select_action(observation)
        self.last = replace(self.last, timings_ms={})
        return chunk
        yield

    def select_action(self, observation: Observation) -> ActionChunk:
        assert observation.proprio is not None
        time.sleep(self.delay)
        guesses = observation.proprio + self.noise * self.rng.normal(size=(2, 1)).astype(np.float32)
        consulted = (Consultation(1, 0.25),) if self.layers < 4 else ()
        timings = {"encode": 1.0, "llm": 0.5 * self.layers, "head": 0.25, "guidance": 0.0}
        self.last = StepReport(tuple(range(self.layers)), timings, consulted=consulted, verified=self.layers == 3)
        return ActionChunk(guesses, guesses)


class Crashing(NoisyGuesser):
    """Crashes in the episodes whose seeds are given, saying ``message.format(seed)``."""

    def __init__(self, seeds: Sequence[int], message: str = "broken arm") -> None:
        super().__init__(noise=0.0)
        self.bad, self.message = seeds, message

    def reset(self, seed: int = 0) -> None:
        super().reset(seed)
        if seed in self.bad:
            raise RuntimeError(self.message.format(seed))


def policies(delay: float = 0.0) -> Mapping[str, Callable[[], Policy]]:
    return {"full": partial(NoisyGuesser, 0.8, 4, delay), "dysl": partial(NoisyGuesser, 1.2, 3, delay)}


def unmakeable() -> Policy:
    raise ConfigError("no such bundle")


if __name__ == "__main__":
    suite, (folder, workers, batch) = GuessingSuite(), sys.argv[1:]
    episodes = suite.episodes("test", 20)
    evaluate(suite, policies(delay=0.02), episodes, Path(folder), workers=int(workers), batch=int(batch))
