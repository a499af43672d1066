"""The data set as lerobot 0.4 lays it out, and back through the reader."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dyslctl.data.encoding import PNG
from dyslctl.data.episode_file import RecordedEpisode
from dyslctl.data.lerobot import LeRobotSource
from dyslctl.data.lerobot_writer import write_lerobot
from dyslctl.data.mapping import DataMap
from dyslctl.errors import ConfigError, PluginError
from dyslctl.suite import Demonstration, EpisodeSpec
from dyslctl.types import Observation

COUNTERS = ["timestamp", "frame_index", "episode_index", "index", "task_index"]
ALL = DataMap(action="action")


def demonstration(number: int, steps: int) -> Demonstration:
    """Noise, so that nothing is equal by chance; the instruction changes in the last step of odd ones."""
    rng = np.random.default_rng(number)
    seen = [
        Observation(
            {view: rng.integers(0, 256, (8, 6, 3), dtype=np.uint8) for view in ("agent", "wrist")},
            f"task {number % 2}" if step < steps - 1 else "task 0",
            rng.normal(size=4).astype(np.float32),
        )
        for step in range(steps)
    ]
    actions = np.hstack([rng.normal(size=(steps, 2)), np.where(np.arange(steps) < 2, -1, 1)[:, None]])
    spec = EpisodeSpec("noise", "train", 10 * number, f"task_{number % 2}", 1000 + number)
    return Demonstration(spec, seen, actions.astype(np.float32), 1)


SHOWN = [demonstration(number, steps) for number, steps in enumerate((3, 4, 5))]


def recorded(shown: Demonstration) -> RecordedEpisode:
    return RecordedEpisode.of(shown, ALL, PNG)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_lerobot(tmp_path, map(recorded, SHOWN), fps=20)
    return tmp_path


def test_what_is_read_is_what_was_shown(tmp_path: Path) -> None:
    columns = write_lerobot(tmp_path, map(recorded, SHOWN), fps=20)
    source = LeRobotSource(tmp_path, columns)
    assert len(source) == len(SHOWN)
    for number, shown in enumerate(SHOWN):
        found = source.episode(number)
        np.testing.assert_array_equal(found.actions, shown.actions)
        for seen, expected in zip(found.observations, shown.observations, strict=True):
            assert seen.instruction == expected.instruction
            assert seen.proprio is not None and expected.proprio is not None
            np.testing.assert_array_equal(seen.proprio, expected.proprio)
            assert list(seen.images) == list(expected.images)
            for view in expected.images:
                np.testing.assert_array_equal(seen.images[view], expected.images[view])


def test_info_names_every_column(root: Path) -> None:
    info = json.loads((root / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 12, 2)
    assert (info["fps"], info["splits"], info["video_path"]) == (20, {"train": "0:3"}, None)
    assert info["data_path"] == "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    image = {"dtype": "image", "shape": [8, 6, 3], "names": ["height", "width", "channels"]}
    assert info["features"]["observation.images.wrist"] == image
    assert info["features"]["action"] == {"dtype": "float32", "shape": [3], "names": None}
    assert list(info["features"])[-5:] == COUNTERS


def test_rows_count_on_from_episode_to_episode(root: Path) -> None:
    file = pq.ParquetFile(root / "data/chunk-000/file-000.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [3, 4, 5]
    table = file.read(columns=COUNTERS).to_pydict()
    assert table["index"] == list(range(12))
    assert table["episode_index"] == [0] * 3 + [1] * 4 + [2] * 5
    assert table["frame_index"] == [0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert table["task_index"] == [0] * 3 + [1, 1, 1, 0] + [0] * 5
    np.testing.assert_allclose(table["timestamp"][3:7], [0, 0.05, 0.1, 0.15])


def test_the_hub_sees_images_in_the_columns(root: Path) -> None:
    schema = pq.read_schema(root / "data/chunk-000/file-000.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["observation.images.agent"] == {"_type": "Image"}
    assert features["action"] == {"feature": {"dtype": "float32", "_type": "Value"}, "length": 3, "_type": "List"}
    assert str(schema.field("action").type) == "fixed_size_list<element: float>[3]"


def test_the_index_says_where_each_episode_is_and_comes_from(root: Path) -> None:
    rows = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(row["dataset_from_index"], row["dataset_to_index"], row["length"]) for row in rows] == [
        (0, 3, 3),
        (3, 7, 4),
        (7, 12, 5),
    ]
    assert rows[1]["tasks"] == ["task 1", "task 0"]
    told = {key: rows[1][f"dyslctl/{key}"] for key in ("suite", "split", "index", "task", "seed", "dropped")}
    assert told == {"suite": "noise", "split": "train", "index": 10, "task": "task_1", "seed": 1001, "dropped": 0}
    np.testing.assert_allclose(rows[2]["stats/action/max"], SHOWN[2].actions.max(0))
    assert np.shape(rows[0]["stats/observation.images.agent/mean"]) == (3, 1, 1)


def test_tasks_are_the_index_of_a_data_frame(root: Path) -> None:
    table = pq.read_table(root / "meta/tasks.parquet")
    assert table.to_pylist() == [{"task_index": 0, "task": "task 0"}, {"task_index": 1, "task": "task 1"}]
    assert json.loads(table.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_statistics_are_of_all_frames(root: Path) -> None:
    found = json.loads((root / "meta/stats.json").read_text())
    actions = np.concatenate([shown.actions for shown in SHOWN])
    np.testing.assert_allclose(found["action"]["mean"], actions.mean(0), atol=1e-6)
    np.testing.assert_allclose(found["action"]["std"], actions.std(0), atol=1e-6)
    assert found["action"]["count"] == [12]
    assert set(found) == {
        "observation.images.agent",
        "observation.images.wrist",
        "observation.state",
        "action",
        *COUNTERS,
    }


def test_a_full_file_is_followed_by_another(tmp_path: Path) -> None:
    """Each episode of about 1.5 kB of images a step is larger than 1 kB: one a file."""
    columns = write_lerobot(tmp_path, map(recorded, SHOWN), fps=20, file_mb=0.001)
    names = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "data").rglob("*.parquet"))
    assert names == [f"data/chunk-000/file-{number:03d}.parquet" for number in range(3)]
    np.testing.assert_array_equal(LeRobotSource(tmp_path, columns).episode(2).actions, SHOWN[2].actions)


def test_one_number_a_row_is_no_list(tmp_path: Path) -> None:
    """A robot with one joint and no proprioception."""
    shown = SHOWN[0]
    seen = [replace(observation, proprio=None) for observation in shown.observations]
    columns = write_lerobot(
        tmp_path, [recorded(replace(shown, observations=seen, actions=shown.actions[:, 2:]))], fps=5
    )
    assert str(pq.read_schema(tmp_path / "data/chunk-000/file-000.parquet").field("action").type) == "float"
    found = LeRobotSource(tmp_path, columns).episode(0)
    assert found.actions.tolist() == [[-1], [-1], [1]] and found.observations[0].proprio is None


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"actions": np.zeros((3, 7), np.float32)}, r"'action': \[7\]"),
        ({"shapes": {"agent": (9, 9, 3), "wrist": (8, 6, 3)}}, r"'observation.images.agent': \[9, 9, 3\]"),
        ({"proprio": None}, r"\[8, 6, 3\], 'action'"),
    ],
)
def test_episodes_with_other_columns_are_refused(tmp_path: Path, other: dict[str, Any], found: str) -> None:
    first = recorded(SHOWN[0])
    with pytest.raises(PluginError, match=rf"task_0: expected the columns .* as before, found .*{found}"):
        write_lerobot(tmp_path, [first, replace(first, **other)], fps=20)


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one episode"):
        write_lerobot(tmp_path, [], fps=20)
