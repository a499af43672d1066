"""LIBERO's HDF5 files: one a task, ``data/demo_<i>`` an episode.

    data  (attribute problem_info: JSON with language_instruction)
      demo_0
        actions [T, 7]   obs/agentview_rgb [T, h, w, 3]   obs/eye_in_hand_rgb   obs/ee_states [T, 6]   ...

Column names are paths below ``demo_<i>``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from dyslctl.data.mapping import DataMap
from dyslctl.data.optional import require
from dyslctl.data.rows import Frame, Rows, assemble, check_columns, checked_image
from dyslctl.data.source import DemonstrationSource
from dyslctl.errors import ArtifactError, ConfigError
from dyslctl.suite import Demonstration, EpisodeSpec

SUFFIX = ".hdf5"
OPEN_FILES = 8


class Hdf5Source(DemonstrationSource):
    """The files of a folder, and of the folders below it, or a single one."""

    def __init__(self, root: Path, columns: DataMap, name: str | None = None) -> None:
        """List the episodes.

        Args:
            root: A folder or a file.
            columns: Which column is what; its views must be named.
            name: What artifacts call it; ``None``: ``root``.

        Raises:
            ArtifactError: If a file is damaged, holds no episode, or lacks a column of ``columns``.
            ConfigError: If ``columns`` names no views.
            EnvironmentMismatch: If h5py is not installed.
        """
        self.name, self.execute_horizon = name or str(root), columns.execute_horizon
        if columns.views is None:
            raise ConfigError(
                f"--data-map: expected views, found none; {SUFFIX} files do not say which images to read",
                hint="--data-map libero-hdf5 reads LIBERO's own files; docs/data.md shows how a file names views",
            )
        self._columns, self._cameras = columns, columns.views
        self._images = [view.column for view in columns.views.values()]
        self._numbers = list(dict.fromkeys([columns.action, *columns.proprio]))
        files = [root] if root.is_file() else sorted(root.rglob(f"*{SUFFIX}"))
        self._episodes = [(file, demo) for file in files for demo in _demonstrations(file)]

    def __len__(self) -> int:
        return len(self._episodes)

    def episode(self, number: int) -> Demonstration:
        """See :meth:`DemonstrationSource.episode`."""
        file, demo = self._episodes[number]
        with _reading(file):
            group = _group(file, demo)
            check_columns([*self._numbers, *self._images], _datasets(group), f"{file}: data/{demo}")
            numbers = {column: group[column][()] for column in self._numbers}
            lengths = {column: _length(group[column]) for column in [*self._numbers, *self._images]}
            instruction = _instruction(file)
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise ArtifactError(f"{file}: data/{demo}: expected columns of one length, found {lengths}")
        steps = lengths[self._columns.action]
        frames = {column: _frames(file, demo, column, steps) for column in self._images}
        place = partial(_place, file, demo)
        spec = EpisodeSpec(self.name, "train", number, instruction, number)
        return assemble(Rows(place, [instruction] * steps, numbers, frames), self._columns, self._cameras, spec)


def _group(file: Path, demo: str) -> Any:
    group = _open(file)["data"][demo]
    if not isinstance(group, _h5py().Group):
        raise ArtifactError(f"{file}: data/{demo}: expected a group, found a data set", hint="download the file again")
    return group


def _length(dataset: Any) -> int:
    """Rows; a scalar has none."""
    return int((dataset.shape or (0,))[0])


def _place(file: Path, demo: str, row: int) -> str:
    return f"{file}: data/{demo}, row {row}"


def _frames(file: Path, demo: str, column: str, steps: int) -> Sequence[Frame]:
    return [partial(_image, file, demo, column, row) for row in range(steps)]


def _image(file: Path, demo: str, column: str, row: int) -> np.ndarray:
    with _reading(file):
        image = np.asarray(_open(file)["data"][demo][column][row])
    return checked_image(image, f"{_place(file, demo, row)}, column '{column}'")


def _demonstrations(file: Path) -> list[str]:
    """``demo_0, demo_1, ...`` in the order of their numbers."""
    with _reading(file):
        opened = _open(file)
        data = opened.get("data")
        found = [name for name in data if name.startswith("demo_")] if isinstance(data, _h5py().Group) else []
    if not found:
        raise ArtifactError(f"{file}: expected groups data/demo_<i>, found {', '.join(opened) or 'an empty file'}")
    return sorted(found, key=lambda name: (len(name), name))


def _instruction(file: Path) -> str:
    """From the attribute ``problem_info``; files that were made anew without it say it in their name."""
    info = _open(file)["data"].attrs.get("problem_info")
    if info is None:
        return _from_name(file)
    try:
        words = json.loads(info)["language_instruction"]
        return words if isinstance(words, str) else "".join(words)
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{file}: the attribute problem_info has no language_instruction: {error!r}") from error


def _from_name(file: Path) -> str:
    """``KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5`` -> ``turn on the stove``."""
    words = file.stem.removesuffix("_demo").split("_")
    scene = max((place for place, word in enumerate(words) if "SCENE" in word), default=-1)
    return " ".join(words[scene + 1 :])


def _datasets(group: Any) -> list[str]:
    """Paths of the data sets below ``group``."""
    dataset = _h5py().Dataset
    found: list[str] = []
    group.visititems(lambda path, item: found.append(path) if isinstance(item, dataset) else None)
    return found


@lru_cache(maxsize=OPEN_FILES)
def _open(file: Path) -> Any:
    return _h5py().File(file, "r")


def _h5py() -> Any:
    return require("h5py", "reading LIBERO's files")


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError) as error:
        raise ArtifactError(f"cannot read {file}: {error}", hint="download the file again") from error
