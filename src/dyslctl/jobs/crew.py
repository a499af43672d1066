"""Tasks spread over workers that may crash or hang: a dead worker is replaced, its tasks are run again.

A pool, whatever the library, knows tasks with one result each. Here a worker plays several episodes side by side and
each of them counts as soon as it is over, so that a death costs no more than what was being played.

What a worker is made of is not said here: a process of this machine (``processes``), an actor of a Ray cluster
(``ray_actors``).
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeAlias, TypeVar

from dyslctl.errors import EnvironmentMismatch

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
READY = "ready"


@dataclass(frozen=True)
class Died:
    """In the place of a result: the worker died each time that the task was run.

    Attributes:
        how: The last time, e.g. ``"died of signal 11 (Segmentation fault)"``.
    """

    how: str


class Gone(Exception):
    """The worker is dead."""


class Worker(ABC, Generic[Task, Result]):
    """Something that was handed a player, and runs pieces of work with it, one after the other.

    Attributes:
        ready: It has a player.
        in_hand: The tasks of its piece that have not ended, in order.
        begun: Those that its lanes are busy with -> when they began.
    """

    def __init__(self, lanes: int) -> None:
        self.ready, self._lanes = False, lanes
        self.in_hand: dict[Task, None] = {}
        self.begun: dict[Task, float] = {}

    def begin(self, piece: Sequence[Task]) -> None:
        """Hand it ``piece``."""
        self.in_hand = dict.fromkeys(piece)
        self._note_begun()
        self.send(piece)

    def hear(self) -> Iterator[tuple[Task, Result]]:
        """Take its next message, which may be a result.

        Raises:
            Gone: If it died.
            Exception: What went wrong in it.
        """
        message = self.receive()
        if isinstance(message, Exception):
            raise message
        if message is None:
            return
        if message == READY:
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
        return self.deadline(timeout) <= time.monotonic() and not self.has_spoken()

    @abstractmethod
    def send(self, piece: Sequence[Task]) -> None:
        """Let it run ``piece``; if it is dead, the next message says so."""

    @abstractmethod
    def receive(self) -> Any:
        """Its next message: :data:`READY`, a task with its result, an exception; ``None`` is of no meaning.

        Raises:
            Gone: If it died.
        """

    @abstractmethod
    def has_spoken(self) -> bool:
        """Is there a message, or the news of its death, to be received without waiting?"""

    @abstractmethod
    def dismiss(self) -> None:
        """It may go; what it still has in hand is of no interest."""

    @abstractmethod
    def end(self, grace: float = GRACE) -> str:
        """Wait until it is gone, for so many seconds, then kill it: how it ended."""


Listen: TypeAlias = Callable[[Sequence[Worker[Task, Result]], float | None], Sequence[Worker[Task, Result]]]
"""Workers, seconds to wait at most -> those that have something to say; none if the time is up."""


class Crew(Generic[Task, Result]):
    """The workers, and what is left to do.

    Attributes:
        _fresh: Pieces that have not begun.
        _suspects: Tasks that were being run when a worker died.
    """

    def __init__(
        self,
        hire: Callable[[], Worker[Task, Result]],
        listen: Listen[Task, Result],
        tasks: Sequence[Task],
        workers: int,
        lanes: int,
        timeout: float | None,
    ) -> None:
        """``hire`` makes a worker that runs ``lanes`` tasks side by side; the rest as in :func:`spread`."""
        self._hire_one, self._wait, self._timeout, self._size = hire, listen, timeout, workers
        size = 1 if lanes == 1 else min(PIECE * lanes, math.ceil(len(tasks) / workers))
        self._fresh = deque(tasks[first : first + size] for first in range(0, len(tasks), size or 1))
        self._suspects = deque[Task]()
        self._workers = list[Worker[Task, Result]]()
        self._deaths, self._failed_starts = Counter[Task](), 0

    def run(self) -> Generator[tuple[Task, Result | Died]]:
        """Each task with its result, as they end; the workers end with this iterator."""
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
            self._workers.append(self._hire_one())

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.ready and not worker.in_hand and self._waiting:
                worker.begin([self._suspects.popleft()] if self._suspects else self._fresh.popleft())

    def _listen(self) -> Iterator[tuple[Task, Result | Died]]:
        """Wait until something happens, and deal with it."""
        for worker in self._wait(self._workers, self._patience()):
            try:
                yield from worker.hear()
                self._failed_starts = 0
            except Gone:
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

    def _bury(self, worker: Worker[Task, Result], how: str) -> Iterator[tuple[Task, Died]]:
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
