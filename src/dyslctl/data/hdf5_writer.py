"""Writes LIBERO's HDF5 files: one a task, ``data/demo_<i>`` an episode, as LIBERO's own recordings are laid out.

Images are upside down there, turned by 180 degrees. What LIBERO's own files also hold, the simulator's state and model
and the joints, only the simulator could tell, and is left out. Images are compressed without loss; any reader of HDF5
undoes that by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from dyslctl.data.episode_file import PURPOSE, RecordedEpisode
from dyslctl.data.hdf5 import SUFFIX
from dyslctl.data.images import decode_image
from dyslctl.data.mapping import DataMap, View
from dyslctl.data.optional import require
from dyslctl.errors import ConfigError, PluginError

VIEWS = ("agentview_rgb", "eye_in_hand_rgb")
"""LIBERO's names of the first view and the second one; others keep their own."""
HAND = 6
"""Numbers of the proprioception that are the pose of the hand; the fingers are what follows."""
GZIP = 1
"""Of a picture the higher levels save two hundredths more, and take twice the time."""


def _check_instruction(episode: RecordedEpisode) -> None:
    """Can the format hold ``episode``?

    Raises:
        ConfigError: If its instruction changes on the way: a file has one.
    """
    if len(words := dict.fromkeys(episode.instructions)) > 1:
        raise ConfigError(
            f"--format hdf5: expected one instruction an episode, found {len(words)} in {episode.spec.task}",
            hint="--format lerobot has one for each step",
        )


def write_hdf5(root: Path, episodes: Iterable[RecordedEpisode]) -> DataMap:
    """Write ``episodes``, at least one, into the empty folder ``root``, one at a time: its columns.

    Raises:
        ConfigError: If there is no episode, or an instruction changes within one.
        PluginError: If episodes of one task have different instructions.
        EnvironmentMismatch: If h5py is not installed.
    """
    files: dict[str, _File] = {}
    columns: DataMap | None = None
    with ExitStack() as stack:
        for episode in episodes:
            _check_instruction(episode)
            columns, task = columns or _column_map(episode), episode.spec.task
            if task not in files:
                files[task] = _File(stack, root / f"{task}_demo{SUFFIX}", episode)
            files[task].add(episode)
        for file in files.values():
            file.finish()
    if columns is None:
        raise ConfigError("a data set has at least one episode, found none")
    return columns


class _File:
    """The episodes of one task."""

    def __init__(self, stack: ExitStack, path: Path, first: RecordedEpisode) -> None:
        opened = stack.enter_context(require("h5py", PURPOSE).File(path, "w"))
        self._data, self._instruction = opened.create_group("data"), first.instructions[0]
        self._demos, self._steps = 0, 0

    def add(self, episode: RecordedEpisode) -> None:
        """Append ``episode`` as ``demo_<i>``."""
        if episode.instructions[0] != self._instruction:
            raise PluginError(
                f"{episode.spec.task}: expected the instruction '{self._instruction}' of the episodes before, "
                f"found '{episode.instructions[0]}'"
            )
        demo = self._data.create_group(f"demo_{self._demos}")
        self._demos, self._steps = self._demos + 1, self._steps + len(episode)
        _write_numbers(demo, episode)
        for view, column in _columns(episode).items():
            _write_images(demo, column, episode, view)
        spec = episode.spec
        told = {"suite": spec.suite, "split": spec.split, "index": spec.index, "seed": spec.seed}
        demo.attrs.update({"num_samples": len(episode), "dropped": episode.dropped, **told})

    def finish(self) -> None:
        """Say what the file holds."""
        self._data.attrs["num_demos"], self._data.attrs["total"] = self._demos, self._steps
        self._data.attrs["problem_info"] = json.dumps({"language_instruction": self._instruction})


def _write_numbers(demo: Any, episode: RecordedEpisode) -> None:
    demo["actions"] = episode.actions.astype(np.float64)
    # Only solved episodes are kept, and they end when they are solved.
    demo["rewards"] = demo["dones"] = (np.arange(len(episode)) == len(episode) - 1).astype(np.uint8)
    if episode.proprio is not None:
        hand, fingers = np.split(episode.proprio.astype(np.float64), [HAND], axis=1)
        demo["obs/ee_states"] = hand
        if hand.shape[1] == HAND:
            demo["obs/ee_pos"], demo["obs/ee_ori"] = np.split(hand, 2, axis=1)
        if fingers.shape[1]:
            demo["obs/gripper_states"] = fingers


def _write_images(demo: Any, column: str, episode: RecordedEpisode, view: str) -> None:
    shape = episode.shapes[view]
    images = demo.create_dataset(
        column, (len(episode), *shape), np.uint8, chunks=(1, *shape), compression="gzip", compression_opts=GZIP
    )
    for step, data in enumerate(episode.images[view]):
        images[step] = np.rot90(decode_image(data, f"{episode.spec.task}, step {step}"), 2)


def _column_map(episode: RecordedEpisode) -> DataMap:
    width = 0 if episode.proprio is None else episode.proprio.shape[1]
    return DataMap(
        views={view: View(column=column, rotate=180) for view, column in _columns(episode).items()},
        proprio=(*(["obs/ee_states"] if width else []), *(["obs/gripper_states"] if width > HAND else [])),
        action="actions",
    )


def _columns(episode: RecordedEpisode) -> dict[str, str]:
    """View -> column."""
    names = [*VIEWS, *list(episode.images)[len(VIEWS) :]]
    return {view: f"obs/{name}" for view, name in zip(episode.images, names, strict=False)}
