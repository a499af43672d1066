"""Fixtures that every test directory shares: the tiny backbone and the tiny task suite."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach

# A busy machine is not a failing test, and a build must not fail by the luck of the draw; at a desk the draw is random.
settings.register_profile("dyslctl", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("dyslctl")


not_run: set[str] = set()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a process of pytest-xdist left out, it alone knows: it collects the tests."""
    not_run.update(getattr(node, "workeroutput", {}).get("not_run", ()))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not_run:
        terminalreporter.section("left out")
    for line in sorted(not_run):
        terminalreporter.line(line)


def _load(path: str) -> ModuleType:
    """A helper by its path: under ``--import-mode=importlib`` no test folder is on ``sys.path``."""
    name = Path(path).stem
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def tiny_backbone() -> type[TinyBackbone]:
    """The class: ``tiny_backbone(num_layers=8, hidden_size=16, chunk_length=4, memory=False, seed=0)``."""
    backbone: type[TinyBackbone] = _load("tiny.py").TinyBackbone
    return backbone


@pytest.fixture(scope="session")
def tiny_suite() -> type[TinyReach]:
    """The class: ``tiny_suite(chain=1)``."""
    suite: type[TinyReach] = _load("tiny.py").TinyReach
    return suite


@pytest.fixture(scope="session")
def writers() -> ModuleType:
    """``data/writers.py``: small data sets in every format."""
    return _load("data/writers.py")
