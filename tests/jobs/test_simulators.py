"""Simulators in other processes answer as those in this one, all at the same time."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dyslctl.errors import EnvironmentMismatch, PluginError
from dyslctl.jobs.lockstep import Coroutine, run_together
from dyslctl.jobs.simulators import Begin, Execute, simulate_together, simulators
from dyslctl.suite import EpisodeSpec
from dyslctl.types import Observation

if TYPE_CHECKING:
    from tests.jobs import guessing, rooms


@pytest.fixture(autouse=True)
def importable_rooms(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Spawned processes inherit ``sys.path``, and so can unpickle what ``rooms.py`` defines."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    for helper in ("guessing", "rooms"):
        globals()[helper] = importlib.import_module(helper)
    yield


def specs(count: int) -> list[EpisodeSpec]:
    return guessing.GuessingSuite().episodes("train", count)


def actions(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def test_processes_work_at_the_same_time(tmp_path: Path) -> None:
    with simulators(rooms.RoomSuite(tmp_path, 3), 6, processes=3) as environments:
        seen = simulate_together([Begin(*each) for each in zip(environments, specs(6), strict=True)])
        assert all(isinstance(each, Observation) for each in seen)
        executed = simulate_together([Execute(environment, actions(99)) for environment in environments])
    assert [count for _, count in executed] == [1] * 6
    painted = [int.from_bytes(bytes(result.observation.images["process"][0, 0])) for result, _ in executed]
    assert painted[:3] == painted[3:] and len({*painted, os.getpid()}) == 4


@pytest.mark.parametrize("processes", [1, 2])
def test_a_chunk_ends_with_the_instruction(tmp_path: Path, processes: int) -> None:
    with simulators(guessing.GuessingSuite(2), 2, processes) as environments:
        begun = simulate_together([Begin(*each) for each in zip(environments, specs(2), strict=True)])
        right = [float(observation.proprio[0]) for observation in begun]
        asked = [Execute(e, actions(99, number, 99)) for e, number in zip(environments, right, strict=True)]
        answers = simulate_together(asked)
    assert [(result.score, result.new_instruction, count) for result, count in answers] == [(1, True, 2)] * 2


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_goes_to_whoever_asked(tmp_path: Path, processes: int) -> None:
    with simulators(rooms.RoomSuite(tmp_path, 1), 2, processes) as environments:
        simulate_together([Begin(*each) for each in zip(environments, specs(2), strict=True)])
        good, bad = simulate_together([Execute(environments[0], actions(99)), Execute(environments[1], actions(13))])
    assert good[1] == 1 and isinstance(bad, ValueError) and str(bad) == "thirteen"


def test_a_process_that_dies_is_told_of(tmp_path: Path) -> None:
    def play(task: int) -> Coroutine[int]:
        yield Begin(environments[0], specs(1)[0])
        yield Execute(environments[0], actions(-1))
        return task

    with (
        simulators(rooms.RoomSuite(tmp_path, 1), 1, processes=2) as environments,
        pytest.raises(EnvironmentMismatch, match="died of signal 9"),
    ):
        list(run_together([play], [0]))


def test_one_by_one_they_are_environments(tmp_path: Path) -> None:
    (spec,) = specs(1)
    with simulators(guessing.GuessingSuite(), 1) as (here,), simulators(guessing.GuessingSuite(), 1, 2) as (there,):
        assert there.reset(spec).proprio == here.reset(spec).proprio
        assert there.step(actions(99)[0]).score == here.step(actions(99)[0]).score == 0
        with pytest.raises(PluginError, match="no pictures"):
            there.render()


def test_whoever_leaves_early_leaves_no_process_behind(tmp_path: Path) -> None:
    suite = rooms.RoomSuite(tmp_path, 2)
    with pytest.raises(KeyboardInterrupt), simulators(suite, 2, processes=2) as environments:
        assert len(active_children()) == 2
        for environment in environments:
            environment.ask(Begin(environment, specs(1)[0]))  # and nobody hears the answer
        raise KeyboardInterrupt
    assert active_children() == []


def test_simulators_are_closed_in_their_process(tmp_path: Path) -> None:
    with simulators(rooms.RoomSuite(tmp_path, 1), 3, processes=2) as environments:
        simulate_together([Begin(*each) for each in zip(environments, specs(3), strict=True)])
    assert sorted(path.read_text() for path in tmp_path.glob("closed-*")) == ["closed"] * 3
