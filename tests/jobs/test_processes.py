from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dyslctl.errors import EnvironmentMismatch, PluginError
from dyslctl.jobs.crew import DEATHS, Died
from dyslctl.jobs.processes import play_in_processes

if TYPE_CHECKING:
    from tests.jobs import flaky

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def importable_flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Spawned workers inherit ``sys.path``, and so can unpickle what ``flaky.py`` defines."""
    monkeypatch.syspath_prepend(str(HERE))
    globals()["flaky"] = importlib.import_module("flaky")
    yield
    assert multiprocessing.active_children() == []


def squares(diary: Path, count: int = 8, workers: int = 2, **options: Any) -> dict[int, int | Died]:
    accidents, lanes = options.pop("accidents", {}), options.get("lanes", 1)
    make = partial(flaky.square, diary, accidents, lanes)
    found = list(play_in_processes(make, range(count), workers, **options))
    assert len(found) == len(dict(found)), "a task ended twice"
    return dict(found)


def times_begun(diary: Path, count: int = 8) -> list[int]:
    return [len(flaky.begun(diary, number)) for number in range(count)]


@pytest.mark.parametrize(("workers", "lanes"), [(1, 1), (3, 1), (2, 3), (20, 1)])
def test_every_task_is_run_once(tmp_path: Path, workers: int, lanes: int) -> None:
    assert squares(tmp_path, workers=workers, lanes=lanes) == {n: n**2 for n in range(8)}
    assert times_begun(tmp_path) == [1] * 8


def test_nothing_to_do(tmp_path: Path) -> None:
    assert squares(tmp_path, count=0) == {}


@pytest.mark.parametrize("kind", ["exit", "kill", "crash"])
def test_what_a_dead_worker_left_is_run_again_in_another(tmp_path: Path, kind: str) -> None:
    assert squares(tmp_path, accidents={3: (kind, 2), 5: (kind, 1)}) == {n: n**2 for n in range(8)}
    assert times_begun(tmp_path) == [1, 1, 1, 3, 1, 2, 1, 1]
    assert len(set(flaky.begun(tmp_path, 3))) == 3


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("exit", "exited with code 7"),
        ("kill", "died of signal 9 (Killed)"),
        ("crash", "died of signal 11 (Segmentation fault)"),
    ],
)
def test_a_task_that_always_kills_is_given_up(tmp_path: Path, kind: str, how: str) -> None:
    found = squares(tmp_path, accidents={0: (kind, flaky.ALWAYS)})
    assert found == {0: Died(how), **{n: n**2 for n in range(1, 8)}}
    assert times_begun(tmp_path) == [DEATHS, *[1] * 7]


def test_only_what_was_being_run_is_run_again(tmp_path: Path) -> None:
    """One worker, three lanes: as 4 begins, 2 and 3 are being run, 0 and 1 are done and 5 to 7 have not begun."""
    assert squares(tmp_path, workers=1, lanes=3, accidents={4: ("kill", 1)}) == {n: n**2 for n in range(8)}
    assert times_begun(tmp_path) == [1, 1, 2, 2, 2, 1, 1, 1]


def test_the_innocent_are_not_given_up(tmp_path: Path) -> None:
    """Side by side one death hits three tasks; alone, only its cause."""
    found = squares(tmp_path, workers=1, lanes=3, accidents={4: ("kill", flaky.ALWAYS)})
    assert {n for n, result in found.items() if isinstance(result, Died)} == {4}
    assert times_begun(tmp_path) == [1, 1, 2, 2, DEATHS, 1, 1, 1]


def test_what_hangs_is_stopped(tmp_path: Path) -> None:
    found = squares(tmp_path, 4, timeout=1.0, accidents={0: ("hang", flaky.ALWAYS), 2: ("hang", 1)})
    assert found == {0: Died("was stopped after 1 s"), 1: 1, 2: 4, 3: 9}
    assert times_begun(tmp_path, 4) == [DEATHS, 1, 2, 1]


def test_the_start_of_a_worker_is_on_no_tasks_clock(tmp_path: Path) -> None:
    make = partial(flaky.slow_to_start, tmp_path, 1.5)
    assert dict(play_in_processes(make, [1, 2], 1, timeout=1.0)) == {1: 1, 2: 4}
    assert len(set(flaky.begun(tmp_path, 1))) == 1


def test_a_slow_caller_is_no_reason_to_stop_a_worker(tmp_path: Path) -> None:
    """All three results are there in time, but the caller looks at the second and third only after it."""
    results = play_in_processes(partial(flaky.square, tmp_path, {}, 3), [1, 2, 3], 1, lanes=3, timeout=2.0)
    found = [next(results)]
    time.sleep(2.5)
    assert dict(found + list(results)) == {1: 1, 2: 4, 3: 9}
    assert [len(flaky.begun(tmp_path, number)) for number in (1, 2, 3)] == [1, 1, 1]


def test_a_result_arrives_while_others_of_its_piece_are_being_run(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    for number, _ in play_in_processes(partial(flaky.waiting, seen), [0, 1], 1, lanes=2, timeout=60.0):
        assert seen.exists() == (number == 1)
        seen.touch()


def test_an_exception_is_raised_here_and_says_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such player") as caught:
        list(play_in_processes(flaky.unmakeable, [1], 1))
    assert "in unmakeable" in caught.value.__notes__[0]
    with pytest.raises(EOFError, match="out of numbers"):
        squares(tmp_path, accidents={3: ("raise", 1)})


def test_an_exception_that_cannot_be_sent_is_told_in_words() -> None:
    with pytest.raises(PluginError, match=r"DemandingError: no such file \(404\)") as caught:
        list(play_in_processes(flaky.demanding, [1], 1))
    assert "in demanding" in caught.value.__notes__[0]


def test_workers_that_die_as_they_start() -> None:
    with pytest.raises(EnvironmentMismatch, match="in a row died as they started; the last one exited with code 3"):
        list(play_in_processes(partial(flaky.stillborn, 3), [1, 2], 2))


def test_leaving_early_ends_the_workers(tmp_path: Path) -> None:
    make = partial(flaky.square, tmp_path, {1: ("hang", flaky.ALWAYS)})
    with closing(play_in_processes(make, range(4), 2)) as results:
        next(results)
        assert len(multiprocessing.active_children()) == 2
    assert multiprocessing.active_children() == []


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    # Killed, and not yet collected by whoever adopted it.
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("stop", ["kill", "interrupt"])
def test_no_worker_outlives_its_parent(tmp_path: Path, stop: str) -> None:
    with subprocess.Popen(
        [sys.executable, str(HERE / "flaky.py"), str(tmp_path)],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not (flaky.begun(tmp_path, 2) and flaky.begun(tmp_path, 3)):
            assert process.poll() is None, "the program ended before it could be stopped"
            time.sleep(0.01)
        if stop == "kill":
            os.kill(process.pid, signal.SIGKILL)
        else:
            os.killpg(process.pid, signal.SIGINT)  # As Ctrl-C in a terminal does.
        assert process.communicate()[1].count("Traceback") == (stop == "interrupt")
    workers = flaky.begun(tmp_path, 2) + flaky.begun(tmp_path, 3)
    while not all(map(gone, workers)):
        time.sleep(0.01)
