from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from dyslctl.data.encoding import PNG
from dyslctl.data.episode_file import RecordedEpisode
from dyslctl.data.hdf5 import Hdf5Source
from dyslctl.data.hdf5_writer import write_hdf5
from dyslctl.data.mapping import DataMap
from dyslctl.errors import ConfigError, PluginError
from dyslctl.suite import Demonstration, EpisodeSpec
from dyslctl.types import Observation


def demonstration(number: int, width: int = 8, views: tuple[str, ...] = ("agent", "wrist")) -> Demonstration:
    """Four steps of noise of task ``number % 2``."""
    rng = np.random.default_rng(number)
    seen = [
        Observation(
            {view: rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for view in views},
            f"do {number % 2}",
            rng.normal(size=width).astype(np.float32),
        )
        for _ in range(4)
    ]
    actions = np.hstack([rng.normal(size=(4, 6)), [[-1], [-1], [1], [1]]]).astype(np.float32)
    return Demonstration(EpisodeSpec("noise", "train", number, f"do_{number % 2}", 7), seen, actions, 1)


def recorded(shown: Demonstration) -> RecordedEpisode:
    return RecordedEpisode.of(shown, DataMap(action="action"), PNG)


@pytest.mark.parametrize(("width", "views"), [(8, ("agent", "wrist")), (3, ("front",)), (6, ("a", "b", "c"))])
def test_what_is_read_is_what_was_shown(tmp_path: Path, width: int, views: tuple[str, ...]) -> None:
    shown = [demonstration(number, width, views) for number in range(3)]
    source = Hdf5Source(tmp_path, write_hdf5(tmp_path, map(recorded, shown)))
    for found, expected in zip(
        [source.episode(number) for number in range(3)], (shown[i] for i in (0, 2, 1)), strict=True
    ):
        np.testing.assert_array_equal(found.actions, expected.actions)
        for seen, then in zip(found.observations, expected.observations, strict=True):
            assert seen.instruction == then.instruction and list(seen.images) == list(then.images)
            assert seen.proprio is not None and then.proprio is not None
            np.testing.assert_array_equal(seen.proprio, then.proprio)
            for view in views:
                np.testing.assert_array_equal(seen.images[view], then.images[view])


def test_the_layout_is_liberos(tmp_path: Path) -> None:
    """Images upside down, float64 numbers, success in the last step, one file a task."""
    shown = [demonstration(number) for number in (0, 2)]
    write_hdf5(tmp_path, map(recorded, shown))
    with h5py.File(tmp_path / "do_0_demo.hdf5") as file:
        data = file["data"]
        assert (data.attrs["num_demos"], data.attrs["total"]) == (2, 8)
        assert json.loads(data.attrs["problem_info"]) == {"language_instruction": "do 0"}
        demo = data["demo_1"]
        assert demo.attrs["num_samples"] == 4 and demo.attrs["index"] == 2
        assert demo["rewards"][()].tolist() == demo["dones"][()].tolist() == [0, 0, 0, 1]
        assert demo["actions"].dtype == np.float64
        assert set(demo["obs"]) == {
            *("agentview_rgb", "eye_in_hand_rgb"),
            *("ee_states", "ee_pos", "ee_ori", "gripper_states"),
        }
        np.testing.assert_array_equal(
            demo["obs/agentview_rgb"][0], shown[1].observations[0].images["agent"][::-1, ::-1]
        )
        np.testing.assert_array_equal(demo["obs/ee_states"][:, 3:], demo["obs/ee_ori"])


def test_an_instruction_that_changes_is_refused(tmp_path: Path) -> None:
    episode = recorded(demonstration(0))
    with pytest.raises(ConfigError, match="expected one instruction an episode, found 2 in do_0"):
        write_hdf5(tmp_path, [replace(episode, instructions=["a", "a", "b", "b"])])


def test_a_task_has_one_instruction(tmp_path: Path) -> None:
    episode = recorded(demonstration(0))
    with pytest.raises(PluginError, match="expected the instruction 'do 0' of the episodes before, found 'else'"):
        write_hdf5(tmp_path, [episode, replace(episode, instructions=["else"] * 4)])


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one episode"):
        write_hdf5(tmp_path, [])
