"""Tasks on a local Ray cluster: the same rules as for processes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dyslctl.errors import EnvironmentMismatch
from dyslctl.jobs.executor import Executor
from dyslctl.jobs.ray_actors import _Stage

HERE = Path(__file__).parent
HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="NOT TESTED: ray is not installed (pip install 'dyslctl[ray]')")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What ``on_ray.py`` says, by name."""
    paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(HERE / "on_ray.py"), str(tmp_path_factory.mktemp("diary"))],
        env={**os.environ, "PYTHONPATH": paths, "RAY_DISABLE_IMPORT_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith('["')]  # Ray may say something too
    return {name: rest for name, *rest in map(json.loads, lines)}


SQUARES = [[n, str(n**2)] for n in range(6)]


@needs_ray
def test_every_task_is_run_once(outcomes: dict[str, list[Any]]) -> None:
    assert outcomes["calm"] == [SQUARES, [1] * 6]


@needs_ray
def test_a_task_that_always_kills_is_given_up_and_the_others_are_run_again(outcomes: dict[str, list[Any]]) -> None:
    found, begun = outcomes["stormy"]
    assert found == [*SQUARES[:3], [3, "Died(how='died on the Ray cluster')"], *SQUARES[4:]]
    assert begun[3] == 3 and begun[1] >= 2


@needs_ray
def test_what_hangs_is_stopped_and_run_again(outcomes: dict[str, list[Any]]) -> None:
    assert outcomes["hanging"] == [SQUARES, [1, 1, 2, 1, 1, 1]]


@needs_ray
def test_a_worker_too_many_gets_ready_and_is_then_silent(outcomes: dict[str, list[Any]]) -> None:
    assert outcomes["spare"] == [False]


@needs_ray
def test_errors(outcomes: dict[str, list[Any]]) -> None:
    assert outcomes["crowded"][0] == outcomes["without a GPU"][0] == "ConfigError"
    assert "room for 2 workers of 1 CPU, found --workers 3" in outcomes["crowded"][1]
    assert outcomes["demanding"] == ["PluginError", "DemandingError: no such file (404)"]


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    found = _Stage().prepare(str(tmp_path / "elsewhere"), lambda: pytest.fail("made"))
    assert isinstance(found, EnvironmentMismatch) and "elsewhere" in found.message and "same path" in str(found.hint)


@pytest.mark.skipif(HAS_RAY, reason="ray is installed")
def test_without_ray_it_is_said_what_brings_it() -> None:
    with pytest.raises(EnvironmentMismatch, match="--executor ray needs ray") as found:
        list(Executor("ray").spread(list, [1], 1))  # type: ignore[arg-type]
    assert found.value.hint == "pip install 'dyslctl[ray]'"
