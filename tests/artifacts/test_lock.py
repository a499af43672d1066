"""One writer at a time, whoever dies meanwhile."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dyslctl.artifacts import lock
from dyslctl.artifacts.lock import locked
from dyslctl.errors import EnvironmentMismatch

HOLD = """
import sys, time
from pathlib import Path
from dyslctl.artifacts.lock import locked
with locked(Path(sys.argv[1]), "a is being trained", "train another run"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "a" / "training.lock"


@pytest.fixture
def holder(path: Path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def take(path: Path):
    return locked(path, "a is being trained", "train another run (--run)")


def test_a_lock_is_gone_when_the_work_is_done_or_has_failed(path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), take(path):
            assert path.exists()
            raise ZeroDivisionError
        assert not path.exists()


def test_who_comes_second_is_told_who_holds_it_and_what_helps(path, holder):
    with pytest.raises(EnvironmentMismatch) as found, take(path):
        pass
    assert str(found.value.message).startswith(
        f"a is being trained by process {holder.pid} on {socket.gethostname()} since 2"
    )
    assert found.value.hint == "wait until it is done, or train another run (--run)"
    assert path.exists(), "the other's lock stays"


def test_the_lock_of_a_killed_process_is_taken_over(path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert path.exists()
    with take(path):
        assert f'"pid": {os.getpid()}' in path.read_text()
    assert not path.exists()


def test_a_lock_file_from_elsewhere_that_nobody_holds_is_no_lock(path):
    path.parent.mkdir(parents=True)
    path.write_text('{"pid": 1, "host": "gone", "command": "dyslctl distill", "since": "then"}\n' * 3)
    with take(path):
        assert path.read_text().count("\n") == 1


def test_a_second_lock_in_one_process_is_refused_too(path):
    with take(path), pytest.raises(EnvironmentMismatch, match=f"process {os.getpid()} on "), take(path):
        pass


def test_a_holder_that_has_not_written_its_name_yet_is_no_crash(path, holder):
    path.write_text("")
    with pytest.raises(EnvironmentMismatch, match="another process, which holds"), take(path):
        pass


def test_a_lock_that_is_removed_while_it_is_waited_for_is_taken_anew(path, monkeypatch):
    path.parent.mkdir(parents=True)
    flock, seen = lock.fcntl.flock, []

    def removed_meanwhile(descriptor, how):
        flock(descriptor, how)
        seen.append(descriptor)
        if len(seen) == 1:
            path.unlink()

    monkeypatch.setattr(lock.fcntl, "flock", removed_meanwhile)
    with take(path):
        assert path.exists() and len(seen) == 2


def test_where_the_file_system_knows_no_locks_work_goes_on(path, monkeypatch):
    def unknown(descriptor, how):
        raise OSError(lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", unknown)
    with take(path):
        assert path.exists()


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentMismatch, match="cannot write"), take(tmp_path / "file" / "a.lock"):
        pass
