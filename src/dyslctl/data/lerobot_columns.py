"""The columns of a LeRobot data set that is written here: what they are called, hold, and look like in parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from dyslctl.data.episode_file import PURPOSE, RecordedEpisode
from dyslctl.data.feature_statistics import Statistics, of_images, of_numbers
from dyslctl.data.lerobot import IMAGES
from dyslctl.data.mapping import DataMap, View
from dyslctl.data.optional import require

STATE, ACTION = "observation.state", "action"
COUNTERS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
"""Columns that every LeRobot data set has, one number a row."""

Features = Mapping[str, Mapping[str, Any]]
"""Column -> ``dtype``, ``shape`` and ``names``, as ``meta/info.json`` says them."""


def column_map(columns: Features) -> DataMap:
    """Which column is what; what the values of the gripper mean, only the suite knows."""
    images = [name for name, column in columns.items() if column["dtype"] == "image"]
    return DataMap(
        views={name.removeprefix(IMAGES): View(column=name) for name in images},
        proprio=(STATE,) if STATE in columns else (),
        action=ACTION,
    )


def features(episode: RecordedEpisode) -> Features:
    """The columns that ``episode`` has."""
    images = {IMAGES + view: _feature("image", shape) for view, shape in episode.shapes.items()}
    state = {} if episode.proprio is None else {STATE: _feature("float32", episode.proprio.shape[1:])}
    action = {ACTION: _feature("float32", episode.actions.shape[1:])}
    return images | state | action | {name: _feature(dtype, (1,)) for name, dtype in COUNTERS.items()}


def _feature(dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    names = ["height", "width", "channels"] if dtype == "image" else None
    return {"dtype": dtype, "shape": list(shape), "names": names}


def table(episode: RecordedEpisode, columns: Features, counters: Mapping[str, np.ndarray]) -> Any:
    """``episode`` as a ``pyarrow.Table``; ``counters`` are the values of :data:`COUNTERS`, ``[T]`` each."""
    arrow = require("pyarrow", PURPOSE)
    values: dict[str, Any] = {
        IMAGES + view: [{"bytes": data, "path": None} for data in files] for view, files in episode.images.items()
    }
    numbers = {**_numbers(episode), **counters}
    values |= {name: rows.squeeze(1).tolist() if _is_scalar(rows) else rows.tolist() for name, rows in numbers.items()}
    fields = [arrow.field(name, _arrow_type(feature)) for name, feature in columns.items()]
    return arrow.table(values, arrow.schema(fields, {"huggingface": _hub_features(columns)}))


def measured(episode: RecordedEpisode, counters: Mapping[str, np.ndarray]) -> dict[str, Statistics]:
    """The statistics of each column of ``episode``."""
    images = {IMAGES + view: of_images(levels, len(episode)) for view, levels in episode.levels.items()}
    return images | {name: of_numbers(rows) for name, rows in {**_numbers(episode), **counters}.items()}


def _numbers(episode: RecordedEpisode) -> dict[str, np.ndarray]:
    state = {} if episode.proprio is None else {STATE: episode.proprio}
    return {**state, ACTION: episode.actions}


def _is_scalar(rows: np.ndarray) -> bool:
    """One number a row, but written as a list of one: LeRobot writes it as a number."""
    return rows.ndim == 2 and rows.shape[1] == 1


def _arrow_type(feature: Mapping[str, Any]) -> Any:
    arrow = require("pyarrow", PURPOSE)
    if feature["dtype"] == "image":
        return arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    kind = arrow.type_for_alias(feature["dtype"])
    return kind if feature["shape"] == [1] else arrow.list_(kind, feature["shape"][0])


def _hub_features(columns: Features) -> str:
    """What the Hub's ``datasets`` needs to see an image in a pair of bytes and path."""

    def feature(column: Mapping[str, Any]) -> dict[str, Any]:
        if column["dtype"] == "image":
            return {"_type": "Image"}
        value = {"dtype": column["dtype"], "_type": "Value"}
        return value if column["shape"] == [1] else {"feature": value, "length": column["shape"][0], "_type": "List"}

    return json.dumps({"info": {"features": {name: feature(column) for name, column in columns.items()}}})
