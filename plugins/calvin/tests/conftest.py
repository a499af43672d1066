"""What the tests share: a simulator that is none, and which tests need the real one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dyslctl_calvin import suite
from dyslctl_calvin.initial_states import Placement
from dyslctl_calvin.installation import Installation
from dyslctl_calvin.sequences import Chain
from dyslctl_calvin.settings import Settings
from dyslctl_calvin.suite import CalvinD, CalvinEnvironment
from hypothesis import settings as hypothesis_settings

hypothesis_settings.register_profile("any-machine", deadline=None, derandomize="CI" in os.environ)
hypothesis_settings.load_profile("any-machine")

left_out = 0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "calvin: runs the real simulator; run with `make test-calvin`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The default suite needs no simulator: without ``-m calvin`` its tests are left out."""
    global left_out
    if "calvin" in str(config.getoption("markexpr")):
        return
    real = [item for item in items if item.get_closest_marker("calvin")]
    items[:] = [item for item in items if item not in real]
    config.hook.pytest_deselected(items=real)
    left_out = len(real)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if left_out:
        terminalreporter.section("CALVIN")
        terminalreporter.line(
            f"NOT RUN: {left_out} tests of the real simulator; `make test-calvin` installs and runs it"
        )


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


@pytest.fixture(scope="session")
def chain() -> Chain:
    return Chain(START, TASKS)


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


@pytest.fixture
def painted() -> list[float]:
    """The numbers that pictures were painted of."""
    return []


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, painted: list[float]) -> None:
    """Every environment that is made has the stand-in simulator."""

    def paint(snapshot: float) -> list[np.ndarray]:
        painted.append(snapshot)
        return [np.full((4, 4, 3), int(snapshot) + view, np.uint8) for view in (0, 100)]

    monkeypatch.setattr(suite, "Simulator", CountingSimulator)
    monkeypatch.setattr(CountingSimulator, "made", 0)
    monkeypatch.setattr(suite, "take", lambda env: env.value)
    monkeypatch.setattr(suite, "painter", lambda *_: SimpleNamespace(paint=paint))


@pytest.fixture
def make(stand_in: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chain: Chain) -> Callable[[Any], Any]:
    """``make(suite)``: an environment with the stand-in, in which all ``test`` episodes are ``chain``."""
    monkeypatch.setattr(suite, "_test_chains", lambda settings: [chain] * 1000)

    def environment(of: Any) -> CalvinEnvironment:
        return CalvinEnvironment(of, Settings(tmp_path), Installation(tmp_path, "3.2.7"))

    return environment


@pytest.fixture
def environment(make: Callable[[Any], CalvinEnvironment]) -> CalvinEnvironment:
    return make(CalvinD())
