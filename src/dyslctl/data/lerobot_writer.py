"""Writes a LeRobot data set, version 3.0, with the images in its parquet files.

Column by column what lerobot 0.4 writes: a row group an episode, files of about 100 MB, statistics of every column; it
opens there as any other. What lerobot does not know is in the columns ``dyslctl/...`` of ``meta/episodes``: where each
episode comes from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from dyslctl.artifacts.files import make_folder, write_json
from dyslctl.data.episode_file import PURPOSE, RecordedEpisode
from dyslctl.data.feature_statistics import Statistics, together
from dyslctl.data.lerobot_columns import Features, column_map, features, measured, table
from dyslctl.data.lerobot_index import INFO
from dyslctl.data.mapping import DataMap
from dyslctl.data.optional import require
from dyslctl.errors import ConfigError, PluginError

CHUNK_FILES, FILE_MB = 1000, 100
PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


def write_lerobot(root: Path, episodes: Iterable[RecordedEpisode], *, fps: int, file_mb: float = FILE_MB) -> DataMap:
    """Write ``episodes``, one at a time: the data set's columns.

    Args:
        root: An empty folder.
        episodes: At least one, all with the same columns.
        fps: Steps a second.
        file_mb: No file that holds more than one episode is larger.

    Raises:
        ConfigError: If there is no episode.
        EnvironmentMismatch: If pyarrow is not installed.
        PluginError: If episodes differ in views, shapes, or the number of action or proprio dimensions.
    """
    writer = _Writer(root, fps, file_mb)
    with closing(writer):
        for episode in episodes:
            writer.add(episode)
    return writer.finish()


class _Writer:
    """The data set so far: all its files but the last are whole, its index is in memory."""

    def __init__(self, root: Path, fps: int, file_mb: float) -> None:
        self._arrow, self._parquet = require("pyarrow", PURPOSE), require("pyarrow.parquet", PURPOSE)
        self._root, self._fps, self._file_bytes = root, fps, file_mb * 2**20
        self._features: Features = {}
        self._tasks: dict[str, int] = {}
        self._index: list[dict[str, Any]] = []
        self._statistics: list[dict[str, Statistics]] = []
        self._frames, self._file, self._bytes = 0, 0, 0
        self._open: Any = None

    def close(self) -> None:
        """Close the last file."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def add(self, episode: RecordedEpisode) -> None:
        """Append ``episode``."""
        self._check(episode)
        counters = self._counters(episode)
        rows = table(episode, self._features, counters)
        self._make_room(rows)
        self._open.write_table(rows, row_group_size=len(episode))
        self._statistics.append(measured(episode, counters))
        self._index.append(self._entry(episode))
        self._frames += len(episode)

    def _check(self, episode: RecordedEpisode) -> None:
        found = features(episode)
        self._features = self._features or found
        if found != self._features:
            shapes = [{name: column["shape"] for name, column in each.items()} for each in (self._features, found)]
            raise PluginError(f"{episode.spec.task}: expected the columns {shapes[0]} as before, found {shapes[1]}")

    def _counters(self, episode: RecordedEpisode) -> dict[str, np.ndarray]:
        steps = np.arange(len(episode))
        for words in episode.instructions:
            self._tasks.setdefault(words, len(self._tasks))
        return {
            "timestamp": (steps / self._fps).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(len(steps), len(self._index)),
            "index": self._frames + steps,
            "task_index": np.array([self._tasks[words] for words in episode.instructions]),
        }

    def _make_room(self, rows: Any) -> None:
        """Begin another file if this one would get too large."""
        if self._open is not None and self._bytes + rows.nbytes > self._file_bytes:
            self.close()
            self._file, self._bytes = self._file + 1, 0
        if self._open is None:
            path = self._root / "data" / PLACE.format(**_place(self._file))
            make_folder(path.parent)
            self._open = self._parquet.ParquetWriter(path, rows.schema, compression="snappy")
        self._bytes += rows.nbytes

    def _entry(self, episode: RecordedEpisode) -> dict[str, Any]:
        """The row of ``meta/episodes``, in which an episode's statistics are, too."""
        place, spec = _place(self._file), episode.spec
        return {
            "episode_index": len(self._index),
            "tasks": list(dict.fromkeys(episode.instructions)),
            "length": len(episode),
            **{f"data/{key}": value for key, value in place.items()},
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + len(episode),
            **{
                f"stats/{column}/{name}": value.tolist()
                for column, statistics in self._statistics[-1].items()
                for name, value in statistics.items()
            },
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            "dyslctl/suite": spec.suite,
            "dyslctl/split": spec.split,
            "dyslctl/index": spec.index,
            "dyslctl/task": spec.task,
            "dyslctl/seed": spec.seed,
            "dyslctl/dropped": episode.dropped,
        }

    def finish(self) -> DataMap:
        """Write the index, once the last file is closed: the data set's columns."""
        if not self._index:
            raise ConfigError("a data set has at least one episode, found none")
        meta = make_folder(self._root / "meta")
        path = meta / "episodes" / PLACE.format(**_place(0))
        make_folder(path.parent)
        self._parquet.write_table(self._arrow.Table.from_pylist(self._index), path)
        self._parquet.write_table(_task_table(self._tasks), meta / "tasks.parquet")
        everything = {name: together([each[name] for each in self._statistics]) for name in self._features}
        write_json(meta / "stats.json", {name: _plain(statistics) for name, statistics in everything.items()})
        write_json(self._root / INFO, self._info())
        return column_map(self._features)

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": len(self._index),
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK_FILES,
            "data_files_size_in_mb": FILE_MB,
            "video_files_size_in_mb": 200,
            "fps": self._fps,
            "splits": {"train": f"0:{len(self._index)}"},
            "data_path": f"data/{PLACE}",
            "video_path": None,
            "features": self._features,
        }


def _place(file: int) -> dict[str, int]:
    chunk, place = divmod(file, CHUNK_FILES)
    return {"chunk_index": chunk, "file_index": place}


def _plain(statistics: Statistics) -> dict[str, Any]:
    return {name: value.tolist() for name, value in statistics.items()}


def _task_table(tasks: dict[str, int]) -> Any:
    """``task_index`` and ``task``; lerobot reads it as a data frame, whose index the metadata say are the tasks."""
    arrow = require("pyarrow", PURPOSE)
    kinds = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    about = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
            for name, (kind, numpy) in kinds.items()
        ],
        "creator": {"library": "pyarrow", "version": arrow.__version__},
        "pandas_version": "2.0.0",
    }
    values = arrow.table({"task_index": list(tasks.values()), "task": list(tasks)})
    return values.replace_schema_metadata({"pandas": json.dumps(about)})
