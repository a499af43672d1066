from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest

from dyslctl.data.hdf5 import Hdf5Source
from dyslctl.data.mapping import DataMap
from dyslctl.errors import ArtifactError, ConfigError, EnvironmentMismatch


def read(root: Path) -> Hdf5Source:
    return Hdf5Source(root, DataMap.load("libero-hdf5"))


@pytest.mark.parametrize("said", [True, False])
def test_every_episode_comes_back_upright(writers: ModuleType, tmp_path: Path, said: bool) -> None:
    """Twelve episodes of two tasks: ``demo_10`` comes after ``demo_9``, and the name tells the task if nothing else."""
    written = [writers.episode(number, 3 + number) for number in range(1, 13)]
    source = read(writers.write_hdf5(tmp_path / "set", written, said=said))
    assert len(source) == 12
    expected = [each for task in ("task 0", "task 1") for each in written if each.instruction == task]
    for number, each in enumerate(expected):
        found = source.episode(number)
        np.testing.assert_allclose(found.actions, each.actions, rtol=1e-6)
        for step, observation in enumerate(found.observations):
            assert observation.instruction == each.instruction
            assert observation.proprio is not None
            np.testing.assert_array_equal(observation.proprio, each.state[step])
            for view, pictures in zip(("agentview", "wrist"), each.views.values(), strict=True):
                np.testing.assert_array_equal(observation.images[view], pictures[step])


def test_no_ops_are_dropped_with_their_frames(writers: ModuleType, tmp_path: Path) -> None:
    """Standing still is dropped, but not the step that opens the gripper while standing still."""
    each = writers.episode(1, 6)
    each.actions[[1, 3, 4], :6] = 0.0
    each.actions[:, 6] = [-1, -1, -1, -1, 1, 1]
    found = read(writers.write_hdf5(tmp_path / "set", [each])).episode(0)
    kept = [0, 2, 4, 5]
    np.testing.assert_allclose(found.actions, each.actions[kept], rtol=1e-6)
    np.testing.assert_array_equal(found.observations[1].images["wrist"], each.views["image2"][2])


def test_nothing_but_no_ops_is_no_episode(writers: ModuleType, tmp_path: Path) -> None:
    each = writers.episode(1, 4)
    each.actions[:, :6], each.actions[:, 6] = 0.0, -1.0
    with pytest.raises(ArtifactError, match="data/demo_0, row 0: expected an episode, found 4 steps, all of them no-o"):
        read(writers.write_hdf5(tmp_path / "set", [each])).episode(0)


def test_a_single_file_is_a_source_too(writers: ModuleType, tmp_path: Path) -> None:
    folder = writers.write_hdf5(tmp_path / "set", [writers.episode(number, 3) for number in range(4)])
    source = read(sorted(folder.iterdir())[1])
    assert len(source) == 2 and source.episode(0).observations[0].instruction == "task 1"


def test_a_bad_row_is_named(writers: ModuleType, tmp_path: Path) -> None:
    each = writers.episode(0, 4)
    each.state[2, 7] = np.inf
    root = writers.write_hdf5(tmp_path / "set", [each])
    with pytest.raises(ArtifactError, match=r"_demo.hdf5: data/demo_0, row 2, column 'obs/gripper_states': expected 2"):
        read(root).episode(0)


def test_columns_must_be_there_and_of_one_length(writers: ModuleType, tmp_path: Path) -> None:
    root = writers.write_hdf5(tmp_path / "a", [writers.episode(0, 4)])
    _edit(root, "obs/ee_states", np.zeros((3, 6)))
    with pytest.raises(ArtifactError, match="data/demo_0: expected columns of one length"):
        read(root).episode(0)
    root = writers.write_hdf5(tmp_path / "b", [writers.episode(0, 4)])
    _edit(root, "obs/eye_in_hand_rgb", None)
    with pytest.raises(ArtifactError, match=r"demo_0: columns that --data-map names are missing\n  'obs/eye_in_hand_r"):
        read(root).episode(0)


def test_images_must_be_images(writers: ModuleType, tmp_path: Path) -> None:
    root = writers.write_hdf5(tmp_path / "set", [writers.episode(0, 4)])
    _edit(root, "obs/agentview_rgb", np.zeros((4, 8, 8, 3), np.float32))
    observation = read(root).episode(0).observations[2]  # row 0 is a no-op
    with pytest.raises(ArtifactError, match=r"row 3, column 'obs/agentview_rgb': expected an image .* found .*float32"):
        observation.images["agentview"]


def test_what_is_no_libero_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.hdf5").write_bytes(b"no hdf5")
    with pytest.raises(ArtifactError, match=r"cannot read .*broken\.hdf5"):
        read(tmp_path)
    (tmp_path / "broken.hdf5").unlink()
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file.create_group("observations")
    with pytest.raises(ArtifactError, match="expected groups data/demo_<i>, found observations"):
        read(tmp_path)


def test_groups_must_be_groups_and_columns_have_rows(writers: ModuleType, tmp_path: Path) -> None:
    for place in ("data", "data/demo_0"):
        path = tmp_path / place.replace("/", "_") / "a.hdf5"
        path.parent.mkdir()
        with h5py.File(path, "w") as file:
            file[place] = np.zeros(3)
        with pytest.raises(ArtifactError, match=r"a\.hdf5: (data/demo_0: expected a group|expected groups data/demo)"):
            read(path).episode(0)
    root = writers.write_hdf5(tmp_path / "set", [writers.episode(0, 4)])
    _edit(root, "actions", np.array(1.0))
    with pytest.raises(ArtifactError, match=r"data/demo_0: expected columns of one length, found \{'actions': 0"):
        read(root).episode(0)


def test_an_instruction_must_be_words(writers: ModuleType, tmp_path: Path) -> None:
    (path,) = writers.write_hdf5(tmp_path / "set", [writers.episode(0, 4)]).iterdir()
    with h5py.File(path, "r+") as file:
        file["data"].attrs["problem_info"] = '{"language_instruction": 5}'
    with pytest.raises(ArtifactError, match="the attribute problem_info has no language_instruction"):
        read(path).episode(0)


def test_views_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected views, found none") as caught:
        Hdf5Source(tmp_path, DataMap(action="actions"))
    assert caught.value.hint is not None and "--data-map libero-hdf5" in caught.value.hint


def test_without_h5py_the_extra_is_named(writers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = writers.write_hdf5(tmp_path / "set", [writers.episode(0, 4)])
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(EnvironmentMismatch, match="reading LIBERO's files needs h5py") as raised:
        read(root)
    assert raised.value.hint == "pip install 'dyslctl[data]'"


def _edit(root: Path, column: str, value: np.ndarray | None) -> None:
    (path,) = root.iterdir()
    with h5py.File(path, "r+") as file:
        del file["data/demo_0"][column]
        if value is not None:
            file["data/demo_0"][column] = value
