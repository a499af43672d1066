"""What a job tells about its progress. The command line draws it; jobs know no terminal."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A listener. A job goes through one or more stretches, each ``start``, ``advance`` many times, ``close``."""

    def start(self, total: int, description: str) -> None:
        """A stretch of ``total`` equal pieces of work begins."""

    def advance(self, amount: int = 1, **fields: float) -> None:
        """``amount`` pieces are done; ``fields`` are values to show beside them, such as ``loss``.

        ``x_low`` and ``x_high`` beside an ``x`` are the ends of its interval. A value stays until it is given anew.
        """

    def close(self) -> None:
        """The stretch is over."""


class NoProgress:
    """Nobody listens."""

    def start(self, total: int, description: str) -> None:
        """Ignored."""

    def advance(self, amount: int = 1, **fields: float) -> None:
        """Ignored."""

    def close(self) -> None:
        """Ignored."""


NO_PROGRESS: Progress = NoProgress()
