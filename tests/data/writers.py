"""Small data sets in every format that is read, written the way their own tools write them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FPS = 10


@dataclass
class Episode:
    """What is written: LeRobot and LIBERO name the same things differently."""

    instruction: str
    actions: np.ndarray
    state: np.ndarray
    views: Mapping[str, Sequence[np.ndarray]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.actions)


def episode(number: int, steps: int, size: int = 8, views: Sequence[str] = ("image", "image2")) -> Episode:
    """Every number in it says where it is from: actions ``number + step / 100``, images of one grey a step."""
    moves = number + np.arange(steps, dtype=np.float32)[:, None] / 100 + np.zeros((1, 6), np.float32)
    gripper = np.where(np.arange(steps) < steps // 2, -1.0, 1.0).astype(np.float32)[:, None]
    pictures = {
        view: [np.full((size, size, 3), 20 * place + 10 * step % 200, np.uint8) for step in range(steps)]
        for place, view in enumerate(views)
    }
    for images in pictures.values():
        for image in images:
            image[0, 0] = (250, 0, 0)  # the upper left corner, so that a turned image is seen to be
    state = np.full((steps, 8), number, np.float32) + np.arange(8, dtype=np.float32)
    return Episode(f"task {number % 2}", np.hstack([moves, gripper]), state, pictures)


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def write_lerobot(
    root: Path, episodes: Sequence[Episode], *, version: str = "v3.0", video: bool = False, row_group: int = 5
) -> Path:
    """A LeRobot data set; version 3.0 puts two episodes in a file, and gives its row groups ``row_group`` rows."""
    tasks = sorted({each.instruction for each in episodes})
    tables = [_table(number, each, tasks, video) for number, each in enumerate(episodes)]
    v3 = version.startswith("v3")
    _write_info(root, episodes[0], version, video)
    if v3:
        _write_v3(root, episodes, tables, tasks, video, row_group)
    else:
        _write_v2(root, episodes, tables, tasks, video)
    return root


def _table(number: int, each: Episode, tasks: Sequence[str], video: bool) -> dict[str, Any]:
    steps = len(each)
    images = {
        f"observation.images.{view}": [{"bytes": png(image), "path": None} for image in pictures]
        for view, pictures in each.views.items()
    }
    return {
        "observation.state": each.state.tolist(),
        "action": each.actions.tolist(),
        **({} if video else images),
        "timestamp": (np.arange(steps) / FPS).astype(np.float32),
        "frame_index": np.arange(steps),
        "episode_index": np.full(steps, number),
        "task_index": np.full(steps, tasks.index(each.instruction)),
    }


def _write_info(root: Path, each: Episode, version: str, video: bool) -> None:
    kind, v3 = ("video" if video else "image"), version.startswith("v3")
    cameras = {f"observation.images.{view}": {"dtype": kind, "shape": [8, 8, 3]} for view in each.views}
    numbers = {"observation.state": {"dtype": "float32", "shape": [8]}, "action": {"dtype": "float32", "shape": [7]}}
    data = (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        if v3
        else "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    )
    videos = (
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        if v3
        else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    )
    info = {
        "codebase_version": version,
        "robot_type": "panda",
        "fps": FPS,
        "chunks_size": 1000,
        "data_path": data,
        "video_path": videos if video else None,
        "features": {**cameras, **numbers},
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))


def _write_v2(
    root: Path, episodes: Sequence[Episode], tables: Sequence[Any], tasks: Sequence[str], video: bool
) -> None:
    (root / "data/chunk-000").mkdir(parents=True)
    for number, (each, table) in enumerate(zip(episodes, tables, strict=True)):
        pq.write_table(pa.table(table), root / f"data/chunk-000/episode_{number:06d}.parquet")
        for view, pictures in each.views.items() if video else ():
            write_video(root / f"videos/chunk-000/observation.images.{view}/episode_{number:06d}.mp4", pictures)
    lengths = [{"episode_index": n, "tasks": [e.instruction], "length": len(e)} for n, e in enumerate(episodes)]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lengths))
    rows = [{"task_index": number, "task": task} for number, task in enumerate(tasks)]
    (root / "meta/tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_v3(
    root: Path,
    episodes: Sequence[Episode],
    tables: Sequence[Any],
    tasks: Sequence[str],
    video: bool,
    row_group: int,
) -> None:
    (root / "data/chunk-000").mkdir(parents=True)
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    index, total = [], 0
    for file in range(0, len(episodes), 2):
        joined = pa.concat_tables([pa.table(table) for table in tables[file : file + 2]])
        pq.write_table(joined, root / f"data/chunk-000/file-{file // 2:03d}.parquet", row_group_size=row_group)
        begin = 0.0
        for number in range(file, min(file + 2, len(episodes))):
            steps = len(episodes[number])
            row = {"episode_index": number, "length": steps, "data/chunk_index": 0, "data/file_index": file // 2}
            row |= {"dataset_from_index": total, "dataset_to_index": total + steps, "stats/action/max": [1.0]}
            for view in episodes[number].views if video else ():
                key = f"videos/observation.images.{view}/"
                row |= {f"{key}chunk_index": 0, f"{key}file_index": file // 2, f"{key}from_timestamp": begin}
            begin, total = begin + steps / FPS, total + steps
            index.append(row)
        for view in episodes[file].views if video else ():
            pictures = [image for each in episodes[file : file + 2] for image in each.views[view]]
            path = root / f"videos/observation.images.{view}/chunk-000/file-{file // 2:03d}.mp4"
            write_video(path, pictures)
    pq.write_table(pa.Table.from_pylist(index), root / "meta/episodes/chunk-000/file-000.parquet")
    # As pandas writes a data frame whose index, without a name, holds the instructions.
    names = pa.table({"task_index": list(range(len(tasks))), "__index_level_0__": list(tasks)})
    pq.write_table(names, root / "meta/tasks.parquet")


def write_video(path: Path, pictures: Sequence[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "0", "g": "4"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv444p"
        for image in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_hdf5(folder: Path, episodes: Sequence[Episode], *, said: bool = True) -> Path:
    """LIBERO's files: one an instruction, images upside down; ``said``: the instruction stands in an attribute."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in sorted({each.instruction for each in episodes}):
        with h5py.File(folder / f"KITCHEN_SCENE3_{task.replace(' ', '_')}_demo.hdf5", "w") as file:
            data = file.create_group("data")
            if said:
                data.attrs["problem_info"] = json.dumps({"language_instruction": task})
            for number, each in enumerate([each for each in episodes if each.instruction == task]):
                _write_demo(data.create_group(f"demo_{number}"), each)
    return folder


def write_calvin(root: Path, episodes: Sequence[Episode], windows: Sequence[tuple[int, int]] | None = None) -> Path:
    """A CALVIN data set: the episodes are recordings, ``windows`` of their frames are put into the words of the first.

    Without ``windows`` each recording is one.
    """
    folder, frame, recordings = root / "training", 0, []
    (folder / "lang_annotations").mkdir(parents=True)
    for each in episodes:
        recordings.append((frame, frame + len(each) - 1))
        for step in range(len(each)):
            arrays: dict[str, Any] = {
                f"rgb_{name}": pictures[step]
                for name, pictures in zip(("static", "gripper"), each.views.values(), strict=True)
            }
            arrays |= {"rel_actions": each.actions[step].astype(np.float64), "robot_obs": each.state[step]}
            np.savez_compressed(folder / f"episode_{frame:07d}.npz", **arrays, scene_obs=np.zeros(24))
            frame += 1
    np.save(folder / "ep_start_end_ids.npy", np.array(recordings))
    spans = [(first, last + 1) for first, last in recordings] if windows is None else windows
    words = [each.instruction for each in episodes] if windows is None else [episodes[0].instruction] * len(windows)
    content = {
        "language": {"ann": words, "task": ["lift"] * len(words), "emb": np.ones((len(words), 1, 4), np.float32)},
        "info": {"episodes": [], "indx": [(np.int64(first), np.int64(end)) for first, end in spans]},
    }
    np.save(folder / "lang_annotations/auto_lang_ann.npy", np.array(content, object), allow_pickle=True)
    return root


def _write_demo(group: Any, each: Episode) -> None:
    group["actions"] = each.actions.astype(np.float64)
    group["obs/ee_states"], group["obs/gripper_states"] = each.state[:, :6], each.state[:, 6:]
    for name, pictures in zip(("agentview_rgb", "eye_in_hand_rgb"), each.views.values(), strict=False):
        group[f"obs/{name}"] = np.stack([image[::-1, ::-1] for image in pictures])
