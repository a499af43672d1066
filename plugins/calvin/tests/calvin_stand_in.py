"""A simulator that is none, and a suite whose simulator dies, for this process and for workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from dyslctl_calvin import suite
from dyslctl_calvin.initial_states import Placement
from dyslctl_calvin.installation import Installation
from dyslctl_calvin.sequences import Chain
from dyslctl_calvin.settings import Settings
from dyslctl_calvin.suite import CalvinD, CalvinEnvironment

from dyslctl.policy import Plan, Policy, StepReport
from dyslctl.suite import EpisodeSpec, StepResult
from dyslctl.types import ActionChunk, Observation

START = {
    "led": 0,
    "lightbulb": 0,
    "slider": "right",
    "drawer": "closed",
    "red_block": "table",
    "blue_block": "table",
    "pink_block": "slider_right",
    "grasped": 0,
}
"""The first of the 192 scenes."""
TASKS = ("open_drawer", "turn_on_led", "lift_red_block_table", "stack_block", "move_slider_left")
CHAIN = Chain(START, TASKS)
ALWAYS = 99


class CountingSimulator:
    """A scene of one number. An action adds its first entry; a task is done when it grew by 1 since its start."""

    made = 0

    def __init__(self, installation: Installation, scene: str) -> None:
        self.scene, self.value = scene, 0.0
        self.began: list[Placement] = []
        self.executed: list[np.ndarray] = []
        self.asked: list[tuple[str, float]] = []
        self.env = self
        CountingSimulator.made += 1

    def begin(self, placement: Placement) -> None:
        self.value = 0.0
        self.began.append(placement)

    def step(self, action: np.ndarray) -> None:
        self.executed.append(action)
        self.value += float(action[0])

    def info(self) -> dict[str, float]:
        return {"value": self.value}

    def solved(self, task: str, start: dict[str, float], now: dict[str, float]) -> bool:
        self.asked.append((task, start["value"]))
        return now["value"] - start["value"] >= 1

    def proprio(self) -> np.ndarray:
        return np.full(15, self.value, np.float32)

    def close(self) -> None: ...


def parts(painted: list[float]) -> dict[str, Any]:
    """What stands in for what in ``dyslctl_calvin.suite``; ``painted`` notes of what pictures were painted."""

    def paint(snapshot: float) -> list[np.ndarray]:
        painted.append(snapshot)
        return [np.full((4, 4, 3), int(snapshot) % 100 + view, np.uint8) for view in (0, 100)]

    return {
        "Simulator": CountingSimulator,
        "take": lambda env: env.value,
        "painter": lambda *_: SimpleNamespace(paint=paint),
        "_test_chains": lambda settings, repertoire: [CHAIN] * 1000,
    }


@dataclass
class MortalD(CalvinD):
    """``calvin_d``, where the process of a simulator is killed in the middle of a chain.

    Attributes:
        diary: Folder that remembers, over deaths, how often each chain was begun.
        deaths: Index of a chain -> in which action it is killed, and how many times.
    """

    diary: Path
    deaths: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    def make(self) -> CalvinEnvironment:
        for name, value in parts([]).items():
            setattr(suite, name, value)
        return MortalEnvironment(self, Settings(self.diary), Installation(self.diary, "3.2.7"))

    def identity(self) -> Mapping[str, Any]:
        return {}

    def begun(self, index: int) -> list[int]:
        """The processes that began a chain, in order."""
        page = self.diary / str(index)
        return [int(line) for line in page.read_text().split()] if page.exists() else []


class MortalEnvironment(CalvinEnvironment):
    _suite: MortalD

    def reset(self, spec: EpisodeSpec) -> Observation:
        with (self._suite.diary / str(spec.index)).open("a") as page:
            page.write(f"{os.getpid()}\n")
        action, times = self._suite.deaths.get(spec.index, (0, 0))
        self._left = action if len(self._suite.begun(spec.index)) <= times else None
        return super().reset(spec)

    def step(self, action: np.ndarray) -> StepResult:
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class Solver(Policy):
    """Solves each instruction with the second action; chain 4 only the first two."""

    def reset(self, seed: int = 0) -> None:
        self.chain, self.solved = divmod(seed, CalvinD.max_score)
        self.actions = 0

    def plan(self, observation: Observation) -> Plan:
        return self.select_action(observation)
        yield

    def select_action(self, observation: Observation) -> ActionChunk:
        self.actions += 1
        solves = self.actions == 2 and not (self.chain == 4 and self.solved == 2)
        action = np.array([[solves, 0, 0, 0, 0, 0, 1]], np.float32)
        self.last = StepReport((0,), {"llm": 1.0})
        return ActionChunk(action, action)


POLICIES: Mapping[str, Callable[[], Policy]] = {"full": Solver}
