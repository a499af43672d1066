"""Writes CALVIN's own layout: a file a frame, each instruction of an episode a window of it.

What CALVIN's files also hold is left out where demonstrations do not know it: absolute actions, depth, touch, and the
embeddings of the instructions. The released trainers load ``scene_obs`` and do not look: it is there, not a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from dyslctl.artifacts.files import make_folder, write_json
from dyslctl.data.calvin import INDEX, TRAINING, WORDS, frame_name
from dyslctl.data.calvin_annotations import ANNOTATIONS, Annotation, write_annotations
from dyslctl.data.episode_file import RecordedEpisode
from dyslctl.data.images import decode_image
from dyslctl.data.mapping import DataMap, View
from dyslctl.errors import ConfigError

ACTION, STATE, SCENE = "rel_actions", "robot_obs", "scene_obs"
SCENE_DIM = 24
SOURCES = "sources.json"
"""Beside the frames: where each recording of the index comes from."""


def write_calvin(root: Path, episodes: Iterable[RecordedEpisode]) -> DataMap:
    """Write ``episodes``, at least one, into the empty folder ``root``, one at a time: its columns.

    Raises:
        ConfigError: If there is no episode.
        EnvironmentMismatch: If it cannot be written, or Pillow is not installed.
    """
    folder = make_folder(root / TRAINING)
    recordings, annotations, sources = list[tuple[int, int]](), list[Annotation](), list[dict[str, Any]]()
    columns, frame = None, 0
    for episode in episodes:
        columns = columns or _columns(episode)
        recordings.append((frame, frame + len(episode) - 1))
        annotations += _windows(episode, frame)
        sources.append({**asdict(episode.spec), "dropped": episode.dropped})
        for arrays in _frames(episode):
            np.savez_compressed(folder / frame_name(frame), **arrays)
            frame += 1
    if columns is None:
        raise ConfigError("a data set has at least one episode, found none")
    np.save(folder / INDEX, np.array(recordings, np.int64))
    write_annotations(folder / WORDS / ANNOTATIONS, annotations)
    write_json(folder / SOURCES, {"recordings": sources})
    return columns


def _columns(episode: RecordedEpisode) -> DataMap:
    return DataMap(
        views={view: View(column=_column(view)) for view in episode.images},
        proprio=() if episode.proprio is None else (STATE,),
        action=ACTION,
    )


def _column(view: str) -> str:
    return f"rgb_{view}"


def _windows(episode: RecordedEpisode, first: int) -> Iterator[Annotation]:
    """One for each instruction of ``episode``, whose frames begin at number ``first``."""
    for words, steps in groupby(range(len(episode)), episode.instructions.__getitem__):
        frames = [first + step for step in steps]
        yield Annotation(frames[0], frames[-1] + 1, words, words.replace(" ", "_"))


def _frames(episode: RecordedEpisode) -> Iterator[dict[str, Any]]:
    unknown = np.full(SCENE_DIM, np.nan, np.float32)
    for step, action in enumerate(episode.actions):
        images = {
            _column(view): decode_image(files[step], f"{episode.spec.task}, step {step}")
            for view, files in episode.images.items()
        }
        state = {} if episode.proprio is None else {STATE: episode.proprio[step]}
        yield {**images, ACTION: action, **state, SCENE: unknown}
