"""Workers that are processes of this machine.

Each has a pipe of its own: none dies with a lock in its hands that others wait for.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, Self

from dyslctl.errors import PluginError
from dyslctl.jobs.crew import GRACE, READY, Crew, Died, Gone, Player, Result, Task, Worker

# spawn, not fork: torch and CUDA do not survive a fork.
_SPAWN = get_context("spawn")


def play_in_processes(
    make_player: Callable[[], Player[Task, Result]],
    tasks: Sequence[Task],
    workers: int,
    *,
    lanes: int = 1,
    timeout: float | None = None,
) -> Generator[tuple[Task, Result | Died]]:
    """Each of ``tasks`` with its result, as they end.

    After a death, each of the tasks that it may be the fault of is run again, alone in its worker.

    Args:
        make_player: Called once in each worker. It is pickled, as are tasks and results.
        tasks: All different.
        workers: Processes. They end with this iterator, so close it (``contextlib.closing``) if it is left early; and
            they die with this process.
        lanes: Tasks that a player runs side by side. With one, it is handed one at a time.
        timeout: Seconds a task may take; then its worker is killed. What a worker needs to start does not count.

    Raises:
        Exception: What ``make_player`` or a player raises; a :class:`PluginError` in its words if it cannot be sent.
        EnvironmentMismatch: If workers die as they start.
    """
    return Crew(partial(_Process, make_player, lanes), _listen, tasks, workers, lanes, timeout).run()


class Child:
    """A process, and the pipe to it. It dies with this one, and ends with the ``with`` block that it is used in.

    Attributes:
        pipe: To what ``body`` was given; closed if the process is dead.
    """

    def __init__(self, body: Callable[..., object], *arguments: object) -> None:
        """Start ``body(pipe, *arguments)``, all pickled; what it raises is sent as the last message."""
        self.pipe, theirs = _SPAWN.Pipe()
        # Not a daemon: a simulator may want processes of its own.
        self._process = _SPAWN.Process(target=_live, args=(theirs, body, *arguments), name="dyslctl-worker")
        self._process.start()
        theirs.close()  # Else its death would not close the pipe.

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        """Let it end by itself; if the block was left early, kill it: nobody listens to it any more."""
        if kind is not None:
            self.kill()
        self.pipe.close()
        self.end()

    def kill(self) -> None:
        """Now."""
        self._process.kill()

    def end(self, grace: float = GRACE) -> str:
        """Wait until it is gone, for so many seconds, then kill it: how it ended."""
        self._process.join(grace)
        self._process.kill()
        self._process.join()
        code = self._process.exitcode or 0
        return f"died of signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exited with code {code}"


class _Process(Worker[Task, Result]):
    """A process that plays."""

    def __init__(self, make_player: Callable[[], Player[Task, Result]], lanes: int) -> None:
        super().__init__(lanes)
        self._child = Child(_play, make_player)
        self.pipe = self._child.pipe

    def send(self, piece: Sequence[Task]) -> None:
        with suppress(OSError):  # If it died meanwhile, the pipe says so next.
            self.pipe.send(piece)

    def receive(self) -> Any:
        try:
            return self.pipe.recv()
        except (EOFError, OSError) as error:
            raise Gone from error

    def has_spoken(self) -> bool:
        return self.pipe.poll()

    def dismiss(self) -> None:
        if self.in_hand or not self.ready:
            self._child.kill()  # Before it could complain that nobody listens.
        self.pipe.close()

    def end(self, grace: float = GRACE) -> str:
        return self._child.end(grace)


def _listen(workers: Sequence[Worker[Task, Result]], patience: float | None) -> list[Worker[Task, Result]]:
    pipes = {worker.pipe: worker for worker in workers if isinstance(worker, _Process)}
    return [pipes[pipe] for pipe in wait(list(pipes), patience)]  # type: ignore[index]


def portable(error: Exception, note: str) -> Exception:
    """``error`` with ``note``; not every library's can be sent, and one that cannot is told in words."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        error = PluginError(f"{type(error).__name__}: {error}")
    error.add_note(note)
    return error


def _live(pipe: Connection[Any, Any], body: Callable[..., object], *arguments: object) -> None:
    """What a child process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its children.
    die_with_parent()
    try:
        body(pipe, *arguments)
    except Exception as error:
        pipe.send(portable(error, f"in a worker process:\n{traceback.format_exc()}"))


def _play(pipe: Connection[Any, Any], make_player: Callable[[], Player[Any, Any]]) -> None:
    player = make_player()
    pipe.send(READY)
    for piece in messages(pipe):
        for task, result in player(piece):
            pipe.send((task, result))


def messages(pipe: Connection[Any, Any]) -> Iterator[Any]:
    """What the parent sends, until it closes the pipe, or is killed."""
    with suppress(EOFError, ConnectionResetError):
        while True:
            yield pipe.recv()


def die_with_parent() -> None:
    """End this process with the one that ``multiprocessing`` started it from.

    A killed parent cannot stop its workers, and a busy one would not notice that the pipe is closed.
    """
    threading.Thread(target=_watch_parent, daemon=True).start()


def _watch_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
