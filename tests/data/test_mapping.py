from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dyslctl.data.mapping import OF_DATASETS, PRESETS, DataMap, Gripper
from dyslctl.errors import ArtifactError, ConfigError

FILTER = DataMap(action="a", gripper=Gripper(open=-1.0, closed=1.0), noop_threshold=1e-4)
ACTIONS = arrays(
    np.float32, st.tuples(st.integers(1, 20), st.just(7)), elements=st.sampled_from([0.0, 5e-5, 1.0, -1.0])
)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name: str) -> None:
    assert DataMap.load(name).action in ("action", "actions", "rel_actions")


def test_known_data_sets_have_a_preset() -> None:
    assert set(OF_DATASETS.values()) <= set(PRESETS)


def test_what_the_presets_do_to_libero() -> None:
    """LIBERO's files are upside down and hold no-ops; the released sets were turned and filtered."""
    raw, released = DataMap.load("libero-hdf5"), DataMap.load("huggingfacevla-libero")
    assert raw.views is not None and released.views is not None
    assert [view.rotate for view in raw.views.values()] == [180, 180]
    assert [view.rotate for view in released.views.values()] == [0, 0]
    assert list(raw.views) == list(released.views) == ["agentview", "wrist"]
    assert (raw.noop_threshold, released.noop_threshold) == (1e-4, None)


@pytest.mark.parametrize(
    ("gripper", "written", "executed"),
    [
        (Gripper(open=-1.0, closed=1.0), [-1.0, 1.0], [-1.0, 1.0]),
        (Gripper(open=1.0, closed=-1.0), [1.0, -1.0], [-1.0, 1.0]),
        (Gripper(open=1.0, closed=0.0), [1.0, 0.0, 0.25], [-1.0, 1.0, 0.5]),
        (Gripper(index=0, open=0.0, closed=255.0), [0.0, 255.0], [-1.0, 1.0]),
        (Gripper(open=1.0, closed=-1.0, executed_open=1), [1.0, -1.0], [1.0, -1.0]),
        (Gripper(open=0.0, closed=1.0, executed_open=1), [0.0, 1.0, 0.25], [1.0, -1.0, 0.5]),
    ],
)
def test_the_gripper_as_suites_execute_it(gripper: Gripper, written: list[float], executed: list[float]) -> None:
    actions = np.full((len(written), 3), 0.5, np.float32)
    actions[:, gripper.index] = written
    found = gripper.executed(actions)
    np.testing.assert_allclose(found[:, gripper.index], executed)
    np.testing.assert_array_equal(np.delete(found, gripper.index, 1), 0.5)


def test_a_gripper_beyond_the_actions_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"gripper\.index is 7, but actions have 7 dimensions"):
        Gripper(index=7, open=-1.0, closed=1.0).executed(np.zeros((2, 7), np.float32))


def test_no_ops_by_hand() -> None:
    """Still; moves; still; closes; still; opens and moves; still, but the norm is just at the threshold."""
    actions = np.zeros((7, 7), np.float32)
    actions[:, 6] = [-1, -1, -1, 1, 1, -1, -1]
    actions[[1, 5], 0] = 0.5
    actions[6, :2] = 8e-5
    assert FILTER.kept(actions).tolist() == [1, 3, 5, 6]


def test_the_first_no_op_is_dropped_whatever_the_gripper() -> None:
    actions = np.zeros((3, 7), np.float32)
    actions[:, 6], actions[1:, 0] = [1, -1, -1], 1.0
    assert FILTER.kept(actions).tolist() == [1, 2]


@given(ACTIONS)
def test_the_filter_is_the_released_one(actions: np.ndarray) -> None:
    """As the released code walks: an action is compared with the last one that was kept."""
    kept: list[int] = []
    for step, action in enumerate(actions):
        still = np.linalg.norm(action[:-1]) < 1e-4
        if still and (not kept or action[-1] == actions[kept[-1]][-1]):
            continue
        kept.append(step)
    assert FILTER.kept(actions).tolist() == kept


@given(ACTIONS)
def test_what_is_kept_has_nothing_more_to_drop(actions: np.ndarray) -> None:
    once = actions[FILTER.kept(actions)]
    assert len(FILTER.kept(once)) == len(once)


def test_without_a_threshold_everything_is_kept() -> None:
    assert DataMap(action="a").kept(np.zeros((3, 2))).tolist() == [0, 1, 2]


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "schema: dyslctl.data-map/1\n"
        "views: {front: {column: cam0, rotate: 90}}\n"
        "action: act\ngripper: {index: 6, open: 1, closed: 0}\n"
    )
    found = DataMap.load(str(path))
    assert found.views is not None and found.views["front"].rotate == 90 and found.proprio == ()
    assert found.gripper == Gripper(index=6, open=1.0, closed=0.0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("veiws: {}", "veiws: unknown key. Did you mean 'views'"),
        ("views: {front: {column: cam0, rotate: 45}}", "views.front.rotate"),
        ("views: {}", "views: "),
        ("gripper: {open: 1, closed: 1}", "open and closed must differ"),
        ("gripper: {open: 1, closed: 0, executed_open: 0}", "gripper.executed_open"),
        ("noop_threshold: -1", "noop_threshold"),
    ],
)
def test_a_wrong_file_names_the_key(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"schema: dyslctl.data-map/1\naction: act\n{line}\n")
    with pytest.raises(ArtifactError, match=message):
        DataMap.load(str(path))


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'libero-hdf' is neither .* Did you mean 'libero-hdf5'"):
        DataMap.load("libero-hdf")
