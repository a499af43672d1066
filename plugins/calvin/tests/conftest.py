"""What the tests share: a simulator that is none, and which tests need the real one."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dyslctl_calvin import suite
from dyslctl_calvin.installation import Installation
from dyslctl_calvin.sequences import Chain
from dyslctl_calvin.settings import Settings
from dyslctl_calvin.suite import CalvinD, CalvinEnvironment
from hypothesis import settings as hypothesis_settings

hypothesis_settings.register_profile("any-machine", deadline=None, derandomize="CI" in os.environ)
hypothesis_settings.load_profile("any-machine")

# By its name, so that worker processes, which find it on ``sys.path``, can unpickle what it defines.
sys.path.insert(0, str(Path(__file__).parent))
stand_in = importlib.import_module("calvin_stand_in")
left_out = ""


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
    left_out = f"NOT RUN: {len(real)} tests of the real simulator; `make test-calvin` installs and runs it"
    if hasattr(config, "workeroutput"):  # a process of pytest-xdist, which prints nothing: tests/conftest.py does
        config.workeroutput["not_run"] = [left_out]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if left_out:
        terminalreporter.section("CALVIN")
        terminalreporter.line(left_out)


@pytest.fixture(scope="session")
def chain() -> Chain:
    return stand_in.CHAIN


@pytest.fixture
def painted() -> list[float]:
    """The numbers that pictures were painted of."""
    return []


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, painted: list[float]) -> None:
    """Every environment that is made has the stand-in simulator, and all ``test`` episodes are ``chain``."""
    for name, value in stand_in.parts(painted).items():
        monkeypatch.setattr(suite, name, value)
    monkeypatch.setattr(stand_in.CountingSimulator, "made", 0)


@pytest.fixture
def make(installed: None, tmp_path: Path) -> Callable[[Any], Any]:
    """``make(suite)``: an environment with the stand-in."""

    def environment(of: Any) -> CalvinEnvironment:
        return CalvinEnvironment(of, Settings(tmp_path), Installation(tmp_path, "3.2.7"))

    return environment


@pytest.fixture
def environment(make: Callable[[Any], CalvinEnvironment]) -> CalvinEnvironment:
    return make(CalvinD())
