"""One demonstration in a file of its own, from when it is recorded until all are put together.

A parquet file with a row for each step. The writers of the formats read it; nobody else does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dyslctl.artifacts.files import atomic_path
from dyslctl.data.encoding import ImageCoding
from dyslctl.data.mapping import DataMap
from dyslctl.data.optional import require
from dyslctl.data.parquet import read_table
from dyslctl.errors import PluginError
from dyslctl.suite import Demonstration, EpisodeSpec

PURPOSE = "recording demonstrations"
_IMAGE = "image/"
_ABOUT = b"dyslctl"


@dataclass(frozen=True)
class RecordedEpisode:
    """A demonstration with its images encoded and its no-ops dropped.

    Attributes:
        dropped: Steps that were no-ops.
        instructions: Of each of the ``T`` steps that are left.
        actions: ``[T, A]`` float32.
        proprio: ``[T, P]`` float32, or ``None`` if the robot reports none.
        images: View -> the content of ``T`` image files.
        shapes: View -> ``(height, width, 3)``.
        levels: View -> ``[3, 256]`` int64, how often each level of each colour occurs: what statistics are made of.
    """

    spec: EpisodeSpec
    dropped: int
    instructions: Sequence[str] = field(repr=False)
    actions: np.ndarray = field(repr=False)
    proprio: np.ndarray | None = field(repr=False)
    images: Mapping[str, Sequence[bytes]] = field(repr=False)
    shapes: Mapping[str, tuple[int, int, int]]
    levels: Mapping[str, np.ndarray] = field(repr=False)

    def __len__(self) -> int:
        return len(self.actions)

    @classmethod
    def of(cls, demonstration: Demonstration, columns: DataMap, coding: ImageCoding) -> RecordedEpisode:
        """Encode ``demonstration``, without the steps that ``columns`` drops.

        Raises:
            PluginError: If nothing is left, or views or their shapes change within the episode.
        """
        actions = np.asarray(demonstration.actions, np.float32)
        kept = columns.kept(actions)
        if not len(kept):
            raise PluginError(f"{demonstration.spec.task}: the expert's {len(actions)} steps are all no-ops")
        seen = [demonstration.observations[step] for step in kept.tolist()]
        proprio = [observation.proprio for observation in seen if observation.proprio is not None]
        pictures = _Pictures(coding, demonstration.spec)
        for observation in seen:
            pictures.add(observation.images)
        return cls(
            demonstration.spec,
            len(actions) - len(kept),
            [observation.instruction for observation in seen],
            actions[kept],
            np.stack(proprio).astype(np.float32) if proprio else None,
            pictures.images,
            pictures.shapes,
            pictures.levels,
        )

    def save(self, path: Path) -> None:
        """Write it to ``path``, whole or not at all.

        Raises:
            EnvironmentMismatch: If it cannot be written, or pyarrow is not installed.
        """
        arrow, parquet = require("pyarrow", PURPOSE), require("pyarrow.parquet", PURPOSE)
        columns: dict[str, Any] = {"instruction": list(self.instructions), "action": self.actions.tolist()}
        if self.proprio is not None:
            columns["proprio"] = self.proprio.tolist()
        columns |= {_IMAGE + view: list(files) for view, files in self.images.items()}
        about = {
            "spec": asdict(self.spec),
            "dropped": self.dropped,
            "shapes": dict(self.shapes),
            "levels": {view: levels.tolist() for view, levels in self.levels.items()},
        }
        table = arrow.table(columns).replace_schema_metadata({_ABOUT: json.dumps(about)})
        with atomic_path(path) as temporary:
            parquet.write_table(table, temporary, compression="none", use_dictionary=False)

    @classmethod
    def load(cls, path: Path) -> RecordedEpisode:
        """What :meth:`save` wrote to ``path``.

        Raises:
            ArtifactError: If it is missing or damaged.
        """
        table = read_table(path)
        about = json.loads(table.schema.metadata[_ABOUT])
        values = {name: table.column(name).to_pylist() for name in table.column_names}
        return cls(
            EpisodeSpec(**about["spec"]),
            about["dropped"],
            values["instruction"],
            np.array(values["action"], np.float32),
            np.array(values["proprio"], np.float32) if "proprio" in values else None,
            {name.removeprefix(_IMAGE): files for name, files in values.items() if name.startswith(_IMAGE)},
            {view: (height, width, depth) for view, (height, width, depth) in about["shapes"].items()},
            {view: np.array(levels) for view, levels in about["levels"].items()},
        )


class _Pictures:
    """Collects the images of one episode, encoded as they come."""

    def __init__(self, coding: ImageCoding, spec: EpisodeSpec) -> None:
        self._coding, self._spec = coding, spec
        self.images: dict[str, list[bytes]] = {}
        self.shapes: dict[str, tuple[int, int, int]] = {}
        self.levels: dict[str, np.ndarray] = {}

    def add(self, images: Mapping[str, np.ndarray]) -> None:
        """One step's images."""
        shapes = {view: (image.shape[0], image.shape[1], image.shape[2]) for view, image in images.items()}
        if not self.shapes:
            self.shapes = shapes
            self.images = {view: [] for view in shapes}
            self.levels = {view: np.zeros((3, 256), np.int64) for view in shapes}
        if shapes != self.shapes:
            raise PluginError(f"{self._spec.task}: expected views {self.shapes} throughout, found {shapes}")
        for view, image in images.items():
            self.images[view].append(self._coding.encode(image))
            self.levels[view] += np.stack([np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)])
