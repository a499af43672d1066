"""Progress on stderr: a bar with the time left on a terminal, one plain line for each 10 % elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import rich.progress
from rich.console import Console

from dyslctl.jobs.progress import NO_PROGRESS, Progress


@contextmanager
def progress(*, quiet: bool) -> Iterator[Progress]:
    """The listener to hand to a job; its display ends with the block, whatever happens in it."""
    if quiet:
        yield NO_PROGRESS
        return
    # A CI log keeps every frame of an animation, so it gets plain lines even where it pretends to be a terminal.
    animated = sys.stderr.isatty() and not os.environ.get("CI")
    listener: Bar | Lines = Bar() if animated else Lines()
    try:
        yield listener
    finally:
        listener.close()


class Bar:
    """A rich progress bar, its values beside it."""

    def __init__(self) -> None:
        self._display: rich.progress.Progress | None = None

    def start(self, total: int, description: str) -> None:
        """Begin a stretch; an unfinished one ends."""
        self.close()
        self._values: dict[str, float] = {}
        self._display = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[values]}", style="dim"),
            console=Console(stderr=True),
        )
        self._display.start()
        self._task = self._display.add_task(description, total=total, values="")

    def advance(self, amount: int = 1, **fields: float) -> None:
        """Move the bar and renew ``fields``."""
        if self._display is not None:
            self._values |= fields
            self._display.update(self._task, advance=amount, values="\n".join(_values(self._values)))

    def close(self) -> None:
        """Leave the finished bar on the screen."""
        if self._display is not None:
            self._display.stop()
            self._display = None


class Lines:
    """One line at the start and after each tenth of the work."""

    def __init__(self) -> None:
        self._total = 0

    def start(self, total: int, description: str) -> None:
        """Begin a stretch."""
        self._total, self._done, self._tenth, self._description = total, 0, 0, description
        self._values: dict[str, float] = {}
        self._begun = time.monotonic()
        sys.stderr.write(f"{description}: 0/{total}\n")

    def advance(self, amount: int = 1, **fields: float) -> None:
        """Count; write a line if another tenth is done."""
        self._done += amount
        self._values |= fields
        tenth = 10 * self._done // max(self._total, 1)
        if tenth > self._tenth:
            self._tenth = tenth
            elapsed = time.monotonic() - self._begun
            left = elapsed / self._done * max(self._total - self._done, 0)
            position = f"{self._description}: {self._done}/{self._total}  {elapsed:.0f} s, {left:.0f} s left"
            sys.stderr.write("  ".join([position, *_values(self._values)]) + "\n")

    def close(self) -> None:
        """Every line is already written."""


def _values(fields: dict[str, float]) -> list[str]:
    """``{"x": .5, "x_low": .4, "x_high": .6, "loss": .1}`` -> ``["x 0.5 [0.4, 0.6]", "loss 0.1"]``."""
    shown = []
    for name, value in fields.items():
        low, high = fields.get(f"{name}_low"), fields.get(f"{name}_high")
        if low is not None and high is not None:
            shown.append(f"{name} {value:.3g} [{low:.2f}, {high:.2f}]")
        elif not name.endswith(("_low", "_high")):
            shown.append(f"{name} {value:.4g}")
    return shown
