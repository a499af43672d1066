"""Worlds that meet, for tests of simulators in several processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
from guessing import GuessingSuite, GuessingWorld

from dyslctl.suite import PaintedViews, StepResult
from dyslctl.types import Observation

PATIENCE = 60.0


class RoomSuite(GuessingSuite):
    """Worlds that meet: each executes an action only when all of them do, and says which process it is in."""

    def __init__(self, folder: Path, guests: int) -> None:
        super().__init__()
        self.folder, self.guests = folder, guests

    def make(self) -> RoomWorld:
        return RoomWorld(self.folder, self.guests)


class RoomWorld(GuessingWorld):
    def __init__(self, folder: Path, guests: int) -> None:
        super().__init__(max_score=1, max_steps=6)
        self.folder, self.guests = folder, guests

    def step(self, action: np.ndarray) -> StepResult:
        if action[0] == 13:
            raise ValueError("thirteen")
        if action[0] == -1:
            os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / str(os.getpid())).touch()
        until = time.monotonic() + PATIENCE
        while len(list(self.folder.glob("[0-9]*"))) < self.guests:
            assert time.monotonic() < until, "the others do not come"
            time.sleep(0.01)
        return super().step(action)

    def close(self) -> None:
        """Leave a note."""
        (self.folder / f"closed-{os.getpid()}-{id(self)}").write_text("closed")

    def _observe(self) -> Observation:
        process = np.array([*os.getpid().to_bytes(3)], np.uint8).reshape(1, 1, 3)
        images = PaintedViews(["process"], lambda: [process])
        return Observation(images, "guess", self.numbers[self.score : self.score + 1].astype(np.float32))
