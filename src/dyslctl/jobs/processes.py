"""Tasks spread over worker processes that may crash or hang: a dead worker is replaced, its tasks are run again.

A process pool, whatever the library, knows tasks with one result each. Here a worker plays several episodes side by
side and each of them counts as soon as it is over, so that a death costs no more than what was being played. Each
worker has a pipe of its own: none dies with a lock in its hands that others wait for.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic, TypeAlias, TypeVar

from dyslctl.errors import EnvironmentMismatch, PluginError

Task = TypeVar("Task", bound=Hashable)
Result = TypeVar("Result")
Player: TypeAlias = Callable[[Sequence[Task]], Iterator[tuple[Task, Result]]]
"""Runs tasks, begun in order, and yields each with its result as it ends. Lives in a worker, for many calls."""

PIECE = 4
"""Tasks that a worker fetches at a time, for each of its lanes; the last of a piece run in a smaller batch."""
DEATHS = 3
"""Of workers, before a task counts as their cause; in a row and as they start, before it is hopeless."""
GRACE = 5.0
"""Seconds that a worker may take to end by itself."""
# spawn, not fork: torch and CUDA do not survive a fork.
_SPAWN = get_context("spawn")
_READY = "ready"


@dataclass(frozen=True)
class Died:
    """In the place of a result: the worker died each time that the task was run.

    Attributes:
        how: The last time, e.g. ``"died of signal 11 (Segmentation fault)"``.
    """

    how: str


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
    return _Crew(make_player, tasks, workers, lanes, timeout).run()


class _Gone(Exception):
    """The other end of a pipe is closed."""


class _Crew(Generic[Task, Result]):
    """The workers, and what is left to do.

    Attributes:
        _fresh: Pieces that have not begun.
        _suspects: Tasks that were being run when a worker died.
    """

    def __init__(
        self,
        make_player: Callable[[], Player[Task, Result]],
        tasks: Sequence[Task],
        workers: int,
        lanes: int,
        timeout: float | None,
    ) -> None:
        self._make_player, self._lanes, self._timeout, self._size = make_player, lanes, timeout, workers
        size = 1 if lanes == 1 else min(PIECE * lanes, math.ceil(len(tasks) / workers))
        self._fresh = deque(tasks[first : first + size] for first in range(0, len(tasks), size or 1))
        self._suspects = deque[Task]()
        self._workers = list[_Worker[Task, Result]]()
        self._deaths, self._failed_starts = Counter[Task](), 0

    def run(self) -> Generator[tuple[Task, Result | Died]]:
        """See :func:`play_in_processes`."""
        try:
            while self._waiting or any(worker.in_hand for worker in self._workers):
                self._hire()
                self._hand_out()
                yield from self._listen()
        finally:
            for worker in self._workers:
                worker.dismiss()
            for worker in self._workers:
                worker.end()

    @property
    def _waiting(self) -> int:
        """Pieces and suspects that no worker has in hand."""
        return len(self._fresh) + len(self._suspects)

    def _hire(self) -> None:
        free = sum(not worker.in_hand for worker in self._workers)
        for _ in range(min(self._size - len(self._workers), self._waiting - free)):
            self._workers.append(_Worker(self._make_player, self._lanes))

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.ready and not worker.in_hand and self._waiting:
                worker.begin([self._suspects.popleft()] if self._suspects else self._fresh.popleft())

    def _listen(self) -> Iterator[tuple[Task, Result | Died]]:
        """Wait until something happens, and deal with it."""
        heard = wait([worker.pipe for worker in self._workers], self._patience())
        for worker in [worker for worker in self._workers if worker.pipe in heard]:
            try:
                yield from worker.hear()
                self._failed_starts = 0
            except _Gone:
                yield from self._bury(worker, worker.end())
        for worker in [worker for worker in self._workers if worker.overdue(self._timeout)]:
            worker.end(grace=0.0)
            yield from self._bury(worker, f"was stopped after {self._timeout:g} s")

    def _patience(self) -> float | None:
        """Seconds until the next time limit."""
        if self._timeout is None:
            return None
        deadline = min(worker.deadline(self._timeout) for worker in self._workers)
        return None if deadline == math.inf else max(deadline - time.monotonic(), 0.0)

    def _bury(self, worker: _Worker[Task, Result], how: str) -> Iterator[tuple[Task, Died]]:
        """Give back what the dead ``worker`` had in hand; tasks that are beyond hope are done."""
        self._workers.remove(worker)
        self._failed_starts += not worker.ready
        if self._failed_starts == DEATHS:
            raise EnvironmentMismatch(
                f"{DEATHS} worker processes in a row died as they started; the last one {how}",
                hint="use fewer --workers if memory is short, and --resume",
            )
        begun, rest = list(worker.begun), list(worker.in_hand)[len(worker.begun) :]
        if rest:
            self._fresh.appendleft(rest)
        for task in begun:
            self._deaths[task] += 1
            if self._deaths[task] == DEATHS:
                yield task, Died(how)
            else:
                self._suspects.append(task)


class _Worker(Generic[Task, Result]):
    """A process and its pipe.

    Attributes:
        ready: It has a player.
        in_hand: The tasks of its piece that have not ended, in order.
        begun: Those that its lanes are busy with -> when they began.
    """

    def __init__(self, make_player: Callable[[], Player[Task, Result]], lanes: int) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        self.ready, self._lanes = False, lanes
        self.in_hand: dict[Task, None] = {}
        self.begun: dict[Task, float] = {}
        # Not a daemon: a simulator may want processes of its own.
        self._process = _SPAWN.Process(target=_work, args=(theirs, make_player), name="dyslctl-worker")
        self._process.start()
        theirs.close()  # Else its death would not close the pipe.

    def begin(self, piece: Sequence[Task]) -> None:
        """Hand it ``piece``."""
        self.in_hand = dict.fromkeys(piece)
        self._note_begun()
        with suppress(OSError):  # If it died meanwhile, the pipe says so next.
            self.pipe.send(piece)

    def hear(self) -> Iterator[tuple[Task, Result]]:
        """Take its next message, which may be a result.

        Raises:
            _Gone: If it died.
            Exception: What went wrong in it.
        """
        try:
            message = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise _Gone from error
        if isinstance(message, Exception):
            raise message
        if message == _READY:
            self.ready = True
            return
        task, _ = message
        del self.in_hand[task], self.begun[task]
        self._note_begun()
        yield message

    def _note_begun(self) -> None:
        """Tasks begin in order: as many as there are lanes are being run."""
        now = time.monotonic()
        self.begun = {task: self.begun.get(task, now) for task in islice(self.in_hand, self._lanes)}

    def deadline(self, timeout: float | None) -> float:
        """When the oldest of its tasks has taken ``timeout`` seconds."""
        return math.inf if timeout is None else min(self.begun.values(), default=math.inf) + timeout

    def overdue(self, timeout: float | None) -> bool:
        """Is that so, and the result not on its way? The caller may have been busy for longer."""
        return self.deadline(timeout) <= time.monotonic() and not self.pipe.poll()

    def dismiss(self) -> None:
        """It may go; what it still has in hand is of no interest."""
        if self.in_hand or not self.ready:
            self._process.kill()  # Before it could complain that nobody listens.
        self.pipe.close()

    def end(self, grace: float = GRACE) -> str:
        """Wait until it is gone, for so many seconds, then kill it: how it ended."""
        self._process.join(grace)
        self._process.kill()
        self._process.join()
        code = self._process.exitcode or 0
        return f"died of signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exited with code {code}"


def _work(pipe: Connection[Any, Any], make_player: Callable[[], Player[Any, Any]]) -> None:
    """What a worker process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers.
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        player = make_player()
        pipe.send(_READY)
        for piece in _pieces(pipe):
            for task, result in player(piece):
                pipe.send((task, result))
    except Exception as error:
        pipe.send(_portable(error, f"in a worker process:\n{traceback.format_exc()}"))


def _portable(error: Exception, note: str) -> Exception:
    """``error`` with ``note``; not every library's can be sent, and one that cannot is told in words."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        error = PluginError(f"{type(error).__name__}: {error}")
    error.add_note(note)
    return error


def _pieces(pipe: Connection[Any, Any]) -> Iterator[Sequence[Any]]:
    """What the parent hands out, until it closes the pipe, or is killed."""
    with suppress(EOFError, ConnectionResetError):
        while True:
            yield pipe.recv()


def _die_with_parent() -> None:
    """A killed parent cannot stop its workers, and a busy one would not notice that the pipe is closed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
