from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dyslctl.data.lerobot import LeRobotSource
from dyslctl.data.mapping import DataMap, View
from dyslctl.errors import ArtifactError, EnvironmentMismatch

LAYOUTS = [("v2.1", False), ("v2.1", True), ("v3.0", False), ("v3.0", True)]


def read(root: Path, columns: str = "huggingfacevla-libero") -> LeRobotSource:
    return LeRobotSource(root, DataMap.load(columns))


@pytest.mark.parametrize(("version", "video"), LAYOUTS)
def test_every_episode_comes_back_as_it_was_written(
    writers: ModuleType, tmp_path: Path, version: str, video: bool
) -> None:
    """Lengths differ, so that a wrong offset into a file of several episodes cannot go unseen."""
    written = [writers.episode(number, steps, size=16) for number, steps in enumerate((7, 4, 9))]
    source = read(writers.write_lerobot(tmp_path / "set", written, version=version, video=video))
    assert len(source) == 3 and source.action_dim == 7
    for number, expected in enumerate(written):
        found = source.episode(number)
        np.testing.assert_allclose(found.actions, expected.actions, rtol=1e-6)
        assert len(found.observations) == len(expected)
        for step, observation in enumerate(found.observations):
            assert observation.instruction == expected.instruction
            assert observation.proprio is not None
            np.testing.assert_array_equal(observation.proprio, expected.state[step])
            assert list(observation.images) == ["agentview", "wrist"]
            for view, pictures in zip(observation.images, expected.views.values(), strict=True):
                image = observation.images[view]
                assert image.dtype == np.uint8
                np.testing.assert_allclose(image.astype(int), pictures[step], atol=6 if video else 0)


def test_a_preset_without_views_takes_every_camera_in_order(writers: ModuleType, tmp_path: Path) -> None:
    each = writers.episode(0, 3, views=("top", "side", "wrist"))
    source = read(writers.write_lerobot(tmp_path / "set", [each, each]), "lerobot")
    assert list(source.episode(1).observations[0].images) == ["top", "side", "wrist"]


def test_only_the_row_groups_of_an_episode_are_read(
    writers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows 12..19 of a file with groups of 5 rows: the groups 2 and 3."""
    root = writers.write_lerobot(tmp_path / "set", [writers.episode(0, 12), writers.episode(1, 8)], row_group=5)
    asked: list[list[int]] = []
    really = pq.ParquetFile.read_row_groups

    def spy(self: pq.ParquetFile, groups: list[int], **how: Any) -> pa.Table:
        asked.append(list(groups))
        return really(self, groups, **how)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", spy)
    assert len(read(root).episode(1).actions) == 8
    assert asked == [[2, 3]]


def test_images_are_decoded_when_looked_at(writers: ModuleType, tmp_path: Path) -> None:
    root = writers.write_lerobot(tmp_path / "set", [writers.episode(n, 3) for n in range(2)])
    _edit(root / "data/chunk-000/file-000.parquet", "observation.images.image2", 4, {"bytes": b"PNG?", "path": None})
    observation = read(root).episode(1).observations[1]
    assert observation.images["agentview"].shape == (8, 8, 3)
    with pytest.raises(ArtifactError, match=r"file-000\.parquet, row 4, column 'observation\.images\.image2': not an"):
        observation.images["wrist"]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("action", [0.0] * 6 + [float("nan")], "row 4, column 'action': expected 7 finite numbers, found .*nan"),
        ("action", [0.0] * 6, "row 4, column 'action': expected 7 finite numbers"),
        ("action", None, "row 4, column 'action': expected 7 finite numbers, found None"),
        ("observation.state", [1.0], "row 4, column 'observation.state': expected 8 finite numbers"),
        ("episode_index", 5, "row 4: expected a row of episode 1, found one of 5"),
        ("task_index", 9, "row 4: task_index 9 is not in"),
    ],
)
def test_a_bad_row_is_named(writers: ModuleType, tmp_path: Path, column: str, value: Any, message: str) -> None:
    """Episode 1 begins in row 3 of the file."""
    root = writers.write_lerobot(tmp_path / "set", [writers.episode(n, 3) for n in range(2)])
    _edit(root / "data/chunk-000/file-000.parquet", column, 4, value)
    source = read(root)
    assert len(source.episode(0).actions) == 3
    with pytest.raises(ArtifactError, match=f"file-000.parquet, {message}"):
        source.episode(1)


def test_a_missing_image_is_named(writers: ModuleType, tmp_path: Path) -> None:
    root = writers.write_lerobot(tmp_path / "set", [writers.episode(0, 3)])
    column = "observation.images.image"
    _edit(root / "data/chunk-000/file-000.parquet", column, 1, {"bytes": None, "path": "images/gone.png"})
    with pytest.raises(ArtifactError, match=r"row 1, column 'observation.images.image': no such file: .*gone.png"):
        read(root).episode(0).observations[1].images["agentview"]


def test_an_image_may_lie_beside_the_table(writers: ModuleType, tmp_path: Path) -> None:
    root = writers.write_lerobot(tmp_path / "set", [writers.episode(0, 3)])
    (root / "images").mkdir()
    (root / "images/one.png").write_bytes(writers.png(np.full((4, 4, 3), 77, np.uint8)))
    column = "observation.images.image"
    _edit(root / "data/chunk-000/file-000.parquet", column, 1, {"bytes": None, "path": "images/one.png"})
    assert (read(root).episode(0).observations[1].images["agentview"] == 77).all()


def test_a_short_video_is_named(writers: ModuleType, tmp_path: Path) -> None:
    each = writers.episode(0, 6, size=16)
    root = writers.write_lerobot(tmp_path / "set", [each], video=True)
    path = root / "videos/observation.images.image/chunk-000/file-000.mp4"
    writers.write_video(path, list(each.views["image"])[:3])
    observations = read(root).episode(0).observations
    assert observations[2].images["agentview"].shape == (16, 16, 3)
    with pytest.raises(ArtifactError, match=r"row 4, column .*image': .*file-000.mp4 has no frame at 0.400 s"):
        observations[4].images["agentview"]
    (root / "videos/observation.images.image2/chunk-000/file-000.mp4").write_bytes(b"no video")
    with pytest.raises(ArtifactError, match=r"row 0, column .*image2': cannot read .*file-000.mp4"):
        observations[0].images["wrist"]


def test_columns_that_are_not_there_are_listed(writers: ModuleType, tmp_path: Path) -> None:
    root = writers.write_lerobot(tmp_path / "set", [writers.episode(0, 3, views=("image",))])
    with pytest.raises(ArtifactError, match=r"'observation.images.image2'\. Did you mean 'observation.images.image'"):
        read(root)


@pytest.mark.parametrize("version", ["v1.6", "v4.0"])
def test_unknown_versions_are_refused(writers: ModuleType, tmp_path: Path, version: str) -> None:
    root = writers.write_lerobot(tmp_path / "set", [writers.episode(0, 3)])
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, "codebase_version": version}))
    with pytest.raises(ArtifactError, match=f"expected codebase_version v2.0, v2.1, v3.0, found '{version}'"):
        read(root)


@pytest.mark.parametrize(
    ("version", "file"),
    [
        ("v2.1", "meta/tasks.jsonl"),
        ("v2.1", "meta/episodes.jsonl"),
        ("v3.0", "meta/tasks.parquet"),
        ("v3.0", "meta/episodes/chunk-000/file-000.parquet"),
    ],
)
def test_an_incomplete_index_is_named(writers: ModuleType, tmp_path: Path, version: str, file: str) -> None:
    root = writers.write_lerobot(tmp_path / "set", [writers.episode(0, 3)], version=version)
    (root / file).unlink()
    with pytest.raises(ArtifactError, match=file.rpartition("/chunk")[0] or file):
        read(root)


@pytest.mark.parametrize(
    ("version", "rows"),
    [
        ("v3.0", {"task_index": [0], "instruction": ["lift it"]}),
        ("v3.0", {"task_index": [0], "task": [None]}),
        ("v2.1", {"task_index": [0], "description": ["lift it"]}),
        ("v2.1", {"task_index": [0], "task": [" "]}),
    ],
)
def test_a_task_without_words_is_refused(
    writers: ModuleType, tmp_path: Path, version: str, rows: dict[str, list[Any]]
) -> None:
    root = writers.write_lerobot(tmp_path / "set", [writers.episode(0, 3)], version=version)
    if version == "v3.0":
        pq.write_table(pa.table(rows), root / "meta/tasks.parquet")
    else:
        (root / "meta/tasks.jsonl").write_text(json.dumps({key: value[0] for key, value in rows.items()}) + "\n")
    with pytest.raises(ArtifactError, match=r"meta/tasks\.\w+: expected rows of task_index and task"):
        read(root)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("episode_index", 0, "row 1: expected each episode once, found episode 0 again"),
        ("episode_index", 7, "expected episodes 0 to 1, episode 1 is missing"),
        ("episode_index", None, "row 1: does not describe an episode"),
        ("dataset_to_index", 3, "row 1: expected an episode of at least 1 row, found 0"),
        ("dataset_from_index", None, "row 1: does not describe an episode"),
    ],
)
def test_a_bad_row_of_the_index_is_named(
    writers: ModuleType, tmp_path: Path, column: str, value: Any, message: str
) -> None:
    root = writers.write_lerobot(tmp_path / "set", [writers.episode(n, 3) for n in range(2)])
    _edit(root / "meta/episodes/chunk-000/file-000.parquet", column, 1, value)
    with pytest.raises(ArtifactError, match=message):
        read(root)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"episode_index": "abc", "length": 3}, "line 2: does not describe an episode .*ValueError: .*'abc'"),
        ({"episode_index": 0, "length": 3}, "line 2: expected each episode once, found episode 0 again"),
        ({"episode_index": 1, "length": 0}, "line 2: expected an episode of at least 1 row, found 0"),
        ({"episode_index": 1}, "line 2: does not describe an episode .*KeyError: 'length'"),
    ],
)
def test_a_bad_line_of_an_older_index_is_named(
    writers: ModuleType, tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    root = writers.write_lerobot(tmp_path / "set", [writers.episode(0, 3)], version="v2.1")
    with (root / "meta/episodes.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(ArtifactError, match=f"episodes.jsonl, {message}"):
        read(root)


@pytest.mark.parametrize("path", ["data/{episode_index:06q}.parquet", "data/{episode_index.x}", "data/{}", "data/{no}"])
def test_a_path_that_cannot_be_filled_in_is_refused(writers: ModuleType, tmp_path: Path, path: str) -> None:
    root = writers.write_lerobot(tmp_path / "set", [writers.episode(0, 3)], version="v2.1")
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, "data_path": path}))
    with pytest.raises(ArtifactError, match=r"line 1: does not describe an episode as meta/info\.json says"):
        read(root)


def test_views_must_be_images(writers: ModuleType, tmp_path: Path) -> None:
    root = writers.write_lerobot(tmp_path / "set", [writers.episode(0, 3)])
    columns = DataMap(action="action", views={"top": View(column="observation.state")})
    with pytest.raises(ArtifactError, match=r"info\.json: expected images in 'observation\.state', .* found float32"):
        LeRobotSource(root, columns)


def test_numbers_must_be_numbers(writers: ModuleType, tmp_path: Path) -> None:
    """What is shown of an image is not its bytes."""
    root = writers.write_lerobot(tmp_path / "set", [writers.episode(0, 3)])
    source = LeRobotSource(root, DataMap(action="observation.images.image"))
    with pytest.raises(ArtifactError, match="expected finite numbers, found a mapping of bytes, path\n"):
        source.episode(0)


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_frame_without_its_time_is_named(writers: ModuleType, tmp_path: Path, value: float | None) -> None:
    root = writers.write_lerobot(tmp_path / "set", [writers.episode(0, 3, size=16)], video=True)
    _edit(root / "data/chunk-000/file-000.parquet", "timestamp", 1, value)
    with pytest.raises(ArtifactError, match=f"row 1, column 'timestamp': expected seconds, found {value}"):
        read(root).episode(0)


def test_a_damaged_data_file_is_named(writers: ModuleType, tmp_path: Path) -> None:
    root = writers.write_lerobot(tmp_path / "set", [writers.episode(0, 3)])
    source = read(root)
    (root / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ArtifactError, match=r"cannot read .*file-000\.parquet"):
        source.episode(0)
    (root / "data/chunk-000/file-000.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"no such file: .*file-000\.parquet"):
        source.episode(0)


def test_without_pyarrow_the_extra_is_named(
    writers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = writers.write_lerobot(tmp_path / "set", [writers.episode(0, 3)])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(EnvironmentMismatch, match="reading a LeRobot data set needs pyarrow") as raised:
        read(root)
    assert raised.value.hint == "pip install 'dyslctl[data]'"


def _edit(path: Path, column: str, row: int, value: Any) -> None:
    """Put ``value`` into one cell."""
    table = pq.read_table(path)
    values = table.column(column).to_pylist()
    values[row] = value
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(values)), path)
