"""The benchmark's own files, read without trusting them, and the table of fixture poses."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dyslctl_libero.initial_states import FIXTURES, fixture_poses, official_states
from dyslctl_libero.tasks import TASKS

from dyslctl.errors import ArtifactError


class _Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def _write(root: Path, value: object) -> None:
    """As the benchmark's own files are: a zip archive with one pickle."""
    folder = root / "init_files" / "libero_goal"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "some_task.pruned_init", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(value, protocol=2))
        file.writestr("archive/version", "3\n")


def test_states_are_read(tmp_path: Path) -> None:
    states = np.arange(50 * 3, dtype=np.float64).reshape(50, 3)
    _write(tmp_path, states)
    np.testing.assert_array_equal(official_states(tmp_path, "libero_goal", "some_task"), states)


@pytest.mark.parametrize("value", [_Attack(), np.zeros((10, 3)), np.zeros((50, 3), np.float32), np.zeros(50), ["text"]])
def test_anything_else_is_refused(tmp_path: Path, value: object) -> None:
    _write(tmp_path, value)
    with pytest.raises(ArtifactError, match="some_task"):
        official_states(tmp_path, "libero_goal", "some_task")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"some_task\.pruned_init cannot be read"):
        official_states(tmp_path, "libero_goal", "some_task")


def test_the_table_holds_a_pose_for_every_trial() -> None:
    with np.load(FIXTURES, allow_pickle=False) as table:
        assert {key.split("/")[0] for key in table} == {"libero_spatial", "libero_goal", "libero_10"}
        for poses in table.values():
            assert poses.shape == (50, 7)
            np.testing.assert_allclose(np.linalg.norm(poses[:, 3:], axis=1), 1, atol=1e-9)
            assert 0 < np.ptp(poses[:, :2], axis=0).max() < 0.05  # centimetres, as the benchmark scatters them


def test_fixtures_of_a_task() -> None:
    task = TASKS["libero_spatial"][4]
    first, last = fixture_poses("libero_spatial", task, 0), fixture_poses("libero_spatial", task, 49)
    assert set(first) == {"wooden_cabinet_1", "flat_stove_1"}
    np.testing.assert_allclose(first["wooden_cabinet_1"][:3], [0.0374, -0.2604, 0.905], atol=1e-4)
    assert not np.array_equal(first["flat_stove_1"], last["flat_stove_1"])
    assert fixture_poses("libero_object", TASKS["libero_object"][0], 0) == {}
