"""From the rows of a file to an episode: checked numbers, upright images, no-ops dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dyslctl.data.mapping import DataMap, View
from dyslctl.errors import ArtifactError
from dyslctl.plugins import did_you_mean
from dyslctl.suite import Demonstration, EpisodeSpec
from dyslctl.types import Observation

Frame = Callable[[], np.ndarray]
"""Decodes one image, ``[height, width, 3]`` uint8, as it is stored."""


@dataclass(frozen=True)
class Rows:
    """The rows of one episode, as a reader found them.

    Attributes:
        place: Row -> where it is, for error messages.
        instructions: Of each row.
        numbers: Column -> a vector or a number for each row.
        frames: Column -> an image for each row.
    """

    place: Callable[[int], str]
    instructions: Sequence[str]
    numbers: Mapping[str, Sequence[Any]]
    frames: Mapping[str, Sequence[Frame]]

    def matrix(self, columns: Sequence[str]) -> np.ndarray:
        """``[T, D]`` float32: the ``columns`` one behind the other.

        Raises:
            ArtifactError: If a value is not a vector of finite numbers, as long as the first row's.
        """
        return np.concatenate([self._column(column) for column in columns], axis=1)

    def _column(self, column: str) -> np.ndarray:
        rows = [_vector(value) for value in self.numbers[column]]
        width = next((len(row) for row in rows if row is not None), None)
        for number, row in enumerate(rows):
            if row is None or len(row) != width or not np.isfinite(row).all():
                expected = "finite numbers" if width is None else f"{width} finite numbers"
                raise ArtifactError(
                    f"{self.place(number)}, column '{column}': expected {expected}, "
                    f"found {_shown(self.numbers[column][number])}",
                    hint="repair the row or remove its episode",
                )
        return np.array(rows, np.float32)


class LazyImages(Mapping[str, np.ndarray]):
    """Images that are decoded each time they are looked at, and never kept."""

    def __init__(self, frames: Mapping[str, Frame]) -> None:
        self._frames = frames

    def __getitem__(self, view: str) -> np.ndarray:
        return self._frames[view]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._frames)

    def __len__(self) -> int:
        return len(self._frames)


def assemble(rows: Rows, columns: DataMap, cameras: Mapping[str, View], spec: EpisodeSpec) -> Demonstration:
    """The episode in ``rows``, as suites give theirs.

    Raises:
        ArtifactError: If a row cannot be used, or nothing but no-ops is left.
    """
    actions = rows.matrix([columns.action])
    if columns.gripper is not None:
        actions = columns.gripper.executed(actions)
    kept = columns.kept(actions)
    if not len(kept):
        raise ArtifactError(f"{rows.place(0)}: expected an episode, found {len(actions)} steps, all of them no-ops")
    proprio = rows.matrix(columns.proprio) if columns.proprio else None
    observations = [
        Observation(
            LazyImages({name: partial(_upright, rows.frames[v.column][row], v.rotate) for name, v in cameras.items()}),
            rows.instructions[row],
            None if proprio is None else proprio[row],
        )
        for row in kept.tolist()
    ]
    return Demonstration(spec, observations, actions[kept])


def check_columns(wanted: Sequence[str], known: Sequence[str], where: str) -> None:
    """Does the data set have what the column mapping names?

    Raises:
        ArtifactError: If not; all missing ones are listed at once.
    """
    missing = [f"  '{name}'.{did_you_mean(name, list(known))}" for name in wanted if name not in known]
    if missing:
        raise ArtifactError(
            f"{where}: columns that --data-map names are missing\n" + "\n".join(missing) + f"\n  there: {_list(known)}",
            hint="--data-map FILE.yaml says which column is what; docs/data.md shows the file",
        )


def checked_image(image: np.ndarray, where: str) -> np.ndarray:
    """``image``, if it is one.

    Raises:
        ArtifactError: If it is not ``[height, width, 3]`` uint8.
    """
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        found = f"{list(image.shape)} {image.dtype}"
        raise ArtifactError(f"{where}: expected an image [height, width, 3] uint8, found {found}")
    return image


def _upright(frame: Frame, degrees: int) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(frame(), degrees // 90))


def _vector(value: Any) -> np.ndarray | None:
    """``[D]``, ``D`` = 1 for a plain number; ``None`` if it is neither."""
    try:
        vector = np.atleast_1d(np.asarray(value, np.float32))
    except (TypeError, ValueError):
        return None
    return vector if vector.ndim == 1 else None


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a mapping of {_list([str(key) for key in value])}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
