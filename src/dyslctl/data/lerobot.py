"""LeRobot data sets, versions 2.0, 2.1 and 3.0, with images in the parquet files or in MP4 beside them.

    v2.x  data/chunk-000/episode_000000.parquet   meta/{info.json,tasks.jsonl,episodes.jsonl}
    v3.0  data/chunk-000/file-000.parquet         meta/{info.json,tasks.parquet,episodes/chunk-000/file-000.parquet}

A file of version 3.0 holds many episodes; ``meta/episodes`` says which rows, and which seconds of a video, are whose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dyslctl.data.images import decode_image, video_frame
from dyslctl.data.lerobot_index import INDEX, INFO, Info, Place, episode_places, task_names
from dyslctl.data.mapping import DataMap
from dyslctl.data.parquet import read_rows
from dyslctl.data.rows import Frame, Rows, assemble, check_columns, checked_image
from dyslctl.data.source import DemonstrationSource
from dyslctl.errors import ArtifactError
from dyslctl.suite import Demonstration, EpisodeSpec

IMAGES = "observation.images."
PICTURES = ("image", "video")


class LeRobotSource(DemonstrationSource):
    """A LeRobot data set in a folder."""

    def __init__(self, root: Path, columns: DataMap, name: str | None = None) -> None:
        """Read its index.

        Args:
            root: Its folder.
            columns: Which column is what.
            name: What artifacts call it; ``None``: the folder.

        Raises:
            ArtifactError: If the index is damaged, of an unknown version, lacks a column of ``columns``, or says that
                a view's is no image.
            EnvironmentMismatch: If pyarrow is not installed.
        """
        self.name, self.execute_horizon = name or str(root), columns.execute_horizon
        self._root, self._columns, self._info = root, columns, Info.load(root)
        features = self._info.features
        images = {key.removeprefix(IMAGES): key for key, feature in features.items() if feature.dtype in PICTURES}
        self._cameras = columns.cameras(images)
        self._videos = [view.column for view in self._cameras.values() if self._info.is_video(view.column)]
        wanted = [columns.action, *columns.proprio, *(view.column for view in self._cameras.values())]
        check_columns(wanted, list(features), str(root / INFO))
        self._check_views()
        self._places = episode_places(root, self._info, self._videos)
        self._tasks = task_names(root, self._info)

    def __len__(self) -> int:
        return len(self._places)

    def episode(self, number: int) -> Demonstration:
        """See :meth:`DemonstrationSource.episode`."""
        place = self._places[number]
        numbers = dict.fromkeys([self._columns.action, *self._columns.proprio])
        stills = [view.column for view in self._cameras.values() if view.column not in self._videos]
        timed = ["timestamp"] if self._videos else []
        table = read_rows(place.file, place.start, place.stop, [*INDEX, *timed, *numbers, *stills])
        values = {column: table.column(column).to_pylist() for column in [*INDEX, *timed, *numbers]}
        self._check_owner(place, number, values["episode_index"])
        frames: dict[str, Sequence[Frame]] = {
            column: self._stills(place, column, table.column(column).to_pylist()) for column in stills
        }
        frames |= {column: self._moving(place, column, values["timestamp"]) for column in self._videos}
        rows = Rows(place.row, self._instructions(place, values["task_index"]), values, frames)
        spec = EpisodeSpec(self.name, "train", number, rows.instructions[0], number)
        return assemble(rows, self._columns, self._cameras, spec)

    def _check_views(self) -> None:
        for name, view in self._cameras.items():
            found = self._info.features[view.column].dtype
            if found not in PICTURES:
                raise ArtifactError(
                    f"{self._root / INFO}: expected images in '{view.column}', the view '{name}' of --data-map, "
                    f"found {found}",
                    hint="--data-map FILE.yaml says which column is what; docs/data.md shows the file",
                )

    def _check_owner(self, place: Place, number: int, owners: Sequence[Any]) -> None:
        for row, owner in enumerate(owners):
            if owner != number:
                raise ArtifactError(
                    f"{place.row(row)}: expected a row of episode {number}, found one of {owner}",
                    hint="download the data set again",
                )

    def _instructions(self, place: Place, tasks: Sequence[Any]) -> list[str]:
        for row, task in enumerate(tasks):
            if task not in self._tasks:
                raise ArtifactError(f"{place.row(row)}: task_index {task} is not in {self._root / 'meta'}")
        return [self._tasks[task] for task in tasks]

    def _stills(self, place: Place, column: str, values: Sequence[Any]) -> list[Frame]:
        return [
            partial(_still, self._root, value, f"{place.row(row)}, column '{column}'")
            for row, value in enumerate(values)
        ]

    def _moving(self, place: Place, column: str, seconds: Sequence[Any]) -> list[Frame]:
        path, begin = place.videos[column]
        for row, at in enumerate(seconds):
            if not isinstance(at, int | float) or not math.isfinite(at):
                raise ArtifactError(f"{place.row(row)}, column 'timestamp': expected seconds, found {at!r}")
        half = 0.5 / self._info.fps
        return [
            partial(video_frame, path, begin + at, half, f"{place.row(row)}, column '{column}'")
            for row, at in enumerate(seconds)
        ]


def _still(root: Path, value: Any, where: str) -> np.ndarray:
    """The image in a cell: its bytes, or the path of a file below ``root``."""
    if not isinstance(value, Mapping) or (value.get("bytes") is None and not value.get("path")):
        raise ArtifactError(f"{where}: expected an image, found none")
    data = value.get("bytes")
    if data is None:
        path = root / str(value["path"])
        if not path.is_file():
            raise ArtifactError(f"{where}: no such file: {path}")
        data = path.read_bytes()
    return checked_image(decode_image(data, where), where)
