"""The command line driven in this process on the tiny backbone, in an empty folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from dyslctl import plugins
from dyslctl.cli import app

TESTS = Path(__file__).parents[1]
ENTRY_POINTS = "[dyslctl.backbones]\ntiny = tiny:TinyBackbone\n[dyslctl.suites]\ntiny_reach = mortal:MortalReach\n"
QUICK = [
    *("--set", "profile.samples=16"),
    *("--set", "distill.episodes=2"),
    *("--set", "distill.batch_size=4"),
    *("--set", "distill.steps=3"),
    *("--set", "guidance.episodes=2"),
    *("--set", "calibrate.episodes=2"),
    *("--set", "eval.episodes=1"),
    *("--set", "eval.target_episodes=1"),
    *("--set", "bench.warmup=0"),
    *("--set", "bench.iterations=2"),
    *("--set", "bench.min_seconds=0"),
    *("--set", "bench.episodes=1"),
]
"""Sizes that keep every stage real and short."""


def _invoke(*arguments: str) -> Result:
    sized = QUICK if arguments[0] in ("profile", "distill", "eval", "bench", "demo") else []
    return CliRunner().invoke(app, [arguments[0], *sized, *arguments[1:]])


def _document(*arguments: str) -> dict[str, Any]:
    result = _invoke(*arguments, "--json", *(["--quiet"] if arguments[0] not in ("report", "inspect") else []))
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="session")
def _tiny_plugins(tiny_backbone: type, tiny_suite: type) -> Callable[[pytest.MonkeyPatch, Path], None]:
    """Enter a folder where ``tiny`` is the installed backbone."""

    def enter(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(plugins, "load_backbone", lambda name: tiny_backbone)
        monkeypatch.setattr(plugins, "load_suite", lambda name: tiny_suite())

    return enter


@pytest.fixture(scope="session")
def _template(_tiny_plugins: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run with a profile, one with the bundle of dysl, and one with both; made once, tests get copies."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as monkeypatch:
        _tiny_plugins(monkeypatch, folder)
        profiled = _document("profile", "tiny")
        shutil.copytree("runs", "profiled")
        distilled = _document("distill")
        shutil.copytree("runs", "distilled")
        paper = _document("distill", "--method", "dysl-paper")
        shutil.copytree("runs", "paper")
    return {"folder": folder, "profiled": profiled, "distilled": distilled, "paper": paper}


@pytest.fixture
def run(_tiny_plugins: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """``run("profile", "tiny", ...)`` with the tiny plugins and quick sizes, in an empty folder."""
    _tiny_plugins(monkeypatch, tmp_path)
    return _invoke


@pytest.fixture
def document(run: Callable[..., Result]) -> Callable[..., dict[str, Any]]:
    """The JSON document that a command prints; fails the test if the command fails."""
    return _document


@pytest.fixture
def profiled(run: Callable[..., Result], _template: dict[str, Any]) -> dict[str, Any]:
    """What ``profile`` printed; its run is in the current folder."""
    shutil.copytree(_template["folder"] / "profiled", "runs")
    found: dict[str, Any] = _template["profiled"]
    return found


@pytest.fixture
def distilled(run: Callable[..., Result], _template: dict[str, Any]) -> dict[str, Any]:
    """What ``distill`` printed; its run is in the current folder."""
    shutil.copytree(_template["folder"] / "distilled", "runs")
    found: dict[str, Any] = _template["distilled"]
    return found


@pytest.fixture
def paper(run: Callable[..., Result], _template: dict[str, Any]) -> dict[str, Any]:
    """What ``distill --method dysl-paper`` printed; its run is in the current folder, with dysl's bundle too."""
    shutil.copytree(_template["folder"] / "paper", "runs")
    found: dict[str, Any] = _template["paper"]
    return found


@pytest.fixture
def mortal(tmp_path: Path) -> Mapping[str, str]:
    """The environment of a process that has the plugins of ``mortal.py`` installed."""
    info = tmp_path / "site" / "mortal-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mortal\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "diary").mkdir()
    paths = (tmp_path / "site", TESTS, TESTS / "jobs", TESTS / "cli")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "MORTAL_DIARY": str(tmp_path / "diary"),
        "OMP_NUM_THREADS": "1",
    }
