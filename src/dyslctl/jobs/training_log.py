"""Where the numbers of every training step go, beside the loss curve that is always kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from dyslctl.artifacts.files import make_folder
from dyslctl.data.optional import require

LogKind = Literal["none", "tensorboard"]


class TrainingLog:
    """Takes the numbers of each step. This one, the base, forgets them."""

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of ``step``, by name."""

    def close(self) -> None:
        """The training ended."""


class TensorBoardLog(TrainingLog):
    """Scalars in TensorBoard's event files: ``tensorboard --logdir FOLDER`` shows them."""

    def __init__(self, folder: Path, first: int) -> None:
        """Whatever an interrupted training wrote for step ``first`` and later ones is dropped.

        Raises:
            EnvironmentMismatch: If TensorBoard is not installed, or ``folder`` cannot be written.
        """
        require("tensorboard", "distill.log=tensorboard", extra="logging")
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(make_folder(folder)), purge_step=first)

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """One point of each curve."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush."""
        self._writer.close()


def open_log(kind: LogKind, folder: Path, first: int) -> TrainingLog:
    """The log of a training that begins, or goes on, with step ``first``.

    Raises:
        EnvironmentMismatch: If what ``kind`` needs is not installed, or ``folder`` cannot be written.
    """
    return TensorBoardLog(folder, first) if kind == "tensorboard" else TrainingLog()
