"""CALVIN's own data sets: a file a frame, and an episode a window that somebody put into words.

    training/
      ep_start_end_ids.npy                [recordings, 2] first and last frame of each
      lang_annotations/auto_lang_ann.npy  windows of them, and their instructions
      episode_0000000.npz                 rgb_static [200, 200, 3]  rgb_gripper [84, 84, 3]  rel_actions [7]  ...

Windows overlap, since they were drawn from hours of play. Those that share a frame with a held-out one are left out of
``train``.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dyslctl.data.calvin_annotations import ANNOTATIONS, Annotation, read_annotations
from dyslctl.data.mapping import DataMap
from dyslctl.data.rows import Frame, Rows, assemble, check_columns, checked_image
from dyslctl.data.source import DemonstrationSource, Part
from dyslctl.errors import ArtifactError, ConfigError
from dyslctl.suite import Demonstration, EpisodeSpec

TRAINING, WORDS = "training", "lang_annotations"
INDEX = "ep_start_end_ids.npy"
AGAIN = "copy the file of the data set again"


def split_folder(root: Path) -> Path | None:
    """The folder with the frames: ``training/`` of a whole data set, or ``root`` itself; ``None`` if it is neither."""
    return next((folder for folder in (root / TRAINING, root) if (folder / INDEX).is_file()), None)


def frame_name(number: int) -> str:
    """The file of a frame."""
    return f"episode_{number:07d}.npz"


class CalvinSource(DemonstrationSource):
    """The annotated windows of one split."""

    def __init__(self, folder: Path, columns: DataMap, name: str | None = None) -> None:
        """Read the annotations.

        Args:
            folder: The split, see :func:`split_folder`.
            columns: Which array of a frame is what; its views must be named.
            name: What artifacts call it; ``None``: the folder.

        Raises:
            ArtifactError: If the index or the annotations are missing or damaged, or a window is outside of every
                recording.
            ConfigError: If ``columns`` names no views.
        """
        self.name, self.execute_horizon = name or str(folder), columns.execute_horizon
        if columns.views is None:
            raise ConfigError(
                "--data-map: expected views, found none; CALVIN's files do not say which images to read",
                hint="--data-map calvin reads both of its cameras; docs/data.md shows how a file names views",
            )
        self._folder, self._columns, self._cameras = folder, columns, columns.views
        self._images = [view.column for view in columns.views.values()]
        self._numbers = list(dict.fromkeys([columns.action, *columns.proprio]))
        places = (folder / WORDS / ANNOTATIONS, folder / ANNOTATIONS)
        self._windows = read_annotations(next((path for path in places if path.is_file()), places[0]))
        _check_inside(self._windows, _recordings(folder / INDEX), folder)

    def __len__(self) -> int:
        return len(self._windows)

    def numbers(self, part: Part) -> list[int]:
        """See :meth:`DemonstrationSource.numbers`; windows that share a frame with a held-out one are in neither part.

        Raises:
            ConfigError: If there is only one window, or all others overlap with one that is held out.
        """
        held_out = super().numbers("tune")
        if part == "tune":
            return held_out
        taken = np.zeros(max(window.end for window in self._windows), bool)
        for number in held_out:
            taken[self._windows[number].first : self._windows[number].end] = True
        free = [n for n, window in enumerate(self._windows) if not taken[window.first : window.end].any()]
        if not free:
            raise ConfigError(f"{self.name}: each of the {len(self)} windows shares a frame with a held-out one")
        return free

    def episode(self, number: int) -> Demonstration:
        """See :meth:`DemonstrationSource.episode`."""
        window = self._windows[number]
        files = [self._folder / frame_name(frame) for frame in range(window.first, window.end)]
        rows = [_numbers(file, self._numbers, self._images) for file in files]
        numbers = {column: [row[column] for row in rows] for column in self._numbers}
        frames: dict[str, Sequence[Frame]] = {
            column: [partial(_image, file, column) for file in files] for column in self._images
        }
        place = partial(_place, files)
        spec = EpisodeSpec(self.name, "train", number, window.words, number)
        return assemble(Rows(place, [window.words] * len(files), numbers, frames), self._columns, self._cameras, spec)


def _recordings(path: Path) -> np.ndarray:
    """``[recordings, 2]``: first and last frame, ascending."""
    with _reading(path):
        found = np.asarray(np.load(path, allow_pickle=False))
    if found.ndim != 2 or found.shape[1] != 2 or not len(found) or not np.issubdtype(found.dtype, np.integer):
        shown = f"{list(found.shape)} {found.dtype}"
        raise ArtifactError(f"{path}: expected first and last frames [recordings, 2] int, found {shown}", AGAIN)
    return np.asarray(found[np.argsort(found[:, 0])])


def _check_inside(windows: Sequence[Annotation], recordings: np.ndarray, folder: Path) -> None:
    places = np.searchsorted(recordings[:, 0], [window.first for window in windows], side="right") - 1
    for window, place in zip(windows, places.tolist(), strict=True):
        if place < 0 or window.end - 1 > recordings[place, 1]:
            raise ArtifactError(
                f"{folder}: expected windows within a recording of {INDEX}, "
                f"found frames {window.first} to {window.end - 1} ('{window.words}')",
                hint=f"copy {INDEX} and {WORDS}/ of the same data set again",
            )


def _numbers(file: Path, numbers: Sequence[str], images: Sequence[str]) -> dict[str, np.ndarray]:
    with _frame(file) as archive:
        check_columns([*numbers, *images], archive.files, str(file))
        return {column: archive[column] for column in numbers}


def _image(file: Path, column: str) -> np.ndarray:
    with _frame(file) as archive:
        image = np.asarray(archive[column])
    return checked_image(image, f"{file}, column '{column}'")


@contextmanager
def _frame(file: Path) -> Iterator[Any]:
    """The arrays in ``file``, each read when it is asked for."""
    # Of a torn file, numpy leaves open what it opened itself.
    with _reading(file), file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        yield archive


def _place(files: Sequence[Path], row: int) -> str:
    return str(files[row])


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """What numpy raises about a file that is no archive of arrays; one that holds objects is a ValueError."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactError(f"no such file: {file}", AGAIN) from error
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ArtifactError(f"cannot read {file}: {error}", AGAIN) from error
