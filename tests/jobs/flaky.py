"""Players for worker processes that meet with accidents. Also a program, to be killed by a test.

Imports nothing heavy, since every worker of a test imports it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dyslctl.jobs.processes import play_in_processes

ALWAYS = 99


@dataclass
class Square:
    """Squares numbers, ``lanes`` at a time; accidents befall it as it begins one.

    Attributes:
        diary: Folder that remembers, over deaths, how often each number was begun and by which process.
        accidents: Number -> what happens and how many times.
    """

    diary: Path
    accidents: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    lanes: int = 1

    def __call__(self, numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Each number with its square."""
        busy = deque[int]()
        for number in numbers:
            if len(busy) == self.lanes:
                yield self._end(busy.popleft())
            busy.append(number)
            self._begin(number)
        while busy:
            yield self._end(busy.popleft())

    def _begin(self, number: int) -> None:
        befall(self.diary, self.accidents, number)

    def _end(self, number: int) -> tuple[int, int]:
        return number, number**2


def befall(diary: Path, accidents: Mapping[int, tuple[str, int]], number: int) -> None:
    """``number`` begins: note it, and see what happens."""
    with (diary / str(number)).open("a") as page:
        page.write(f"{os.getpid()}\n")
    kind, times = accidents.get(number, ("none", 0))
    if len(begun(diary, number)) <= times:
        happen(kind)


def begun(diary: Path, number: int) -> list[int]:
    """The processes that began ``number``, in order."""
    page = diary / str(number)
    return [int(line) for line in page.read_text().split()] if page.exists() else []


def happen(kind: str) -> None:
    """The accident ``kind`` befalls this process."""
    match kind:
        case "exit":
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(3600)
        case "raise":
            raise EOFError("out of numbers")


def square(diary: Path, accidents: Mapping[int, tuple[str, int]] | None = None, lanes: int = 1) -> Square:
    return Square(diary, accidents or {}, lanes)


def slow_to_start(diary: Path, seconds: float) -> Square:
    time.sleep(seconds)
    return Square(diary)


def stillborn(code: int) -> Square:
    os._exit(code)


def unmakeable() -> Square:
    raise ValueError("no such player")


class DemandingError(Exception):
    """Pickled with its message alone, it cannot be made again."""

    def __init__(self, message: str, response: int) -> None:
        super().__init__(f"{message} ({response})")


def demanding() -> Square:
    raise DemandingError("no such file", 404)


@dataclass
class Waiting:
    """Ends its first number at once, and the others only when ``seen`` exists."""

    seen: Path

    def __call__(self, numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
        for number in numbers:
            while number and not self.seen.exists():
                time.sleep(0.01)
            yield number, number


def waiting(seen: Path) -> Waiting:
    return Waiting(seen)


if __name__ == "__main__":
    # A test run in the background of a shell has Ctrl-C ignored, and children take that over.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(sys.argv[1])
    for _ in play_in_processes(partial(square, folder, {2: ("hang", ALWAYS), 3: ("hang", ALWAYS)}), range(4), 2):
        pass
