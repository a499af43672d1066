from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dyslctl.data.calvin import CalvinSource
from dyslctl.data.calvin_writer import write_calvin
from dyslctl.data.encoding import PNG
from dyslctl.data.episode_file import RecordedEpisode
from dyslctl.data.mapping import DataMap
from dyslctl.errors import ConfigError
from dyslctl.suite import Demonstration, EpisodeSpec
from dyslctl.types import Observation

SHAPES = {"static": (200, 200, 3), "gripper": (84, 84, 3)}


def demonstration(
    number: int, words: tuple[str, ...] = ("open the drawer", "close it"), state: int = 15
) -> Demonstration:
    """Two steps of noise an instruction, in CALVIN's sizes."""
    rng = np.random.default_rng(number)
    seen = [
        Observation(
            {view: rng.integers(0, 256, shape, dtype=np.uint8) for view, shape in SHAPES.items()},
            word,
            rng.normal(size=state).astype(np.float32) if state else None,
        )
        for word in words
        for _ in range(2)
    ]
    moves = rng.normal(size=(len(seen), 6)), np.where(rng.random((len(seen), 1)) < 0.5, -1, 1)
    return Demonstration(
        EpisodeSpec("calvin_d", "train", number, "chain", 7), seen, np.hstack(moves).astype(np.float32), 5
    )


def recorded(shown: Demonstration) -> RecordedEpisode:
    return RecordedEpisode.of(shown, DataMap(action="action"), PNG)


@pytest.mark.parametrize("state", [15, 0])
def test_what_is_read_is_what_was_shown(tmp_path: Path, state: int) -> None:
    """Each instruction of a chain is an episode of its own."""
    shown = [demonstration(number, state=state) for number in range(2)]
    source = CalvinSource(tmp_path / "training", write_calvin(tmp_path, map(recorded, shown)))
    assert len(source) == 4
    for number in range(4):
        found, whole = source.episode(number), shown[number // 2]
        part = slice(2 * (number % 2), 2 * (number % 2) + 2)
        np.testing.assert_array_equal(found.actions, whole.actions[part])
        for seen, then in zip(found.observations, whole.observations[part], strict=True):
            assert seen.instruction == then.instruction
            np.testing.assert_array_equal(seen.proprio, then.proprio)  # type: ignore[arg-type]
            assert list(seen.images) == list(SHAPES)
            for view in SHAPES:
                np.testing.assert_array_equal(seen.images[view], then.images[view])


def test_the_layout_is_calvins(tmp_path: Path) -> None:
    columns = write_calvin(tmp_path, [recorded(demonstration(3)), recorded(demonstration(4, ("lift it",)))])
    folder = tmp_path / "training"
    assert [path.name for path in sorted(folder.glob("*.npz"))] == [f"episode_000000{frame}.npz" for frame in range(6)]
    assert np.load(folder / "ep_start_end_ids.npy").tolist() == [[0, 3], [4, 5]]
    with np.load(folder / "episode_0000004.npz") as frame:
        kinds = {name: (frame[name].shape, frame[name].dtype) for name in frame.files}
    assert kinds == {
        "rgb_static": ((200, 200, 3), np.uint8),
        "rgb_gripper": ((84, 84, 3), np.uint8),
        "rel_actions": ((7,), np.float32),
        "robot_obs": ((15,), np.float32),
        "scene_obs": ((24,), np.float32),
    }
    words = np.load(folder / "lang_annotations/auto_lang_ann.npy", allow_pickle=True).item()
    assert words["info"]["indx"] == [(0, 2), (2, 4), (4, 6)]
    assert words["language"]["ann"] == ["open the drawer", "close it", "lift it"]
    assert words["language"]["task"] == ["open_the_drawer", "close_it", "lift_it"]
    came = json.loads((folder / "sources.json").read_text())["recordings"]
    assert [(each["index"], each["seed"], each["dropped"]) for each in came] == [(3, 7, 0), (4, 7, 0)]
    shipped = DataMap.load("calvin")
    assert (columns.views, columns.proprio, columns.action) == (shipped.views, shipped.proprio, shipped.action)


def test_an_instruction_that_comes_again_is_another_window(tmp_path: Path) -> None:
    episode = replace(recorded(demonstration(0)), instructions=["a", "b", "a", "a"])
    source = CalvinSource(tmp_path / "training", write_calvin(tmp_path, [episode]))
    assert [len(source.episode(number).actions) for number in range(3)] == [1, 1, 2]


def test_equal_episodes_give_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_calvin(tmp_path / name, [recorded(demonstration(0))])
    for path in (tmp_path / "a").rglob("*.np[yz]"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one episode"):
        write_calvin(tmp_path, [])
