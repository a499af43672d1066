from __future__ import annotations

import numpy as np
import pytest
from dyslctl_openvla_oft.actions import decode, normalize, statistics_of
from dyslctl_openvla_oft.config import ActionConfig
from dyslctl_openvla_oft.statistics import FeatureStatistics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pydantic import ValidationError

LIBERO = ActionConfig(action_dim=3)
BOUNDS = FeatureStatistics(
    mean=(0, 0, 0.5),
    std=(1, 1, 0.5),
    max=(5, 9, 1),
    min=(-3, 0, 0),
    q01=(-2, 1, 0),
    q99=(4, 9, 1),
    mask=(True, True, False),
)


def test_decode_by_hand() -> None:
    """``0.5 (a + 1) (q99 - q01) + q01``; the model's 1 is an open gripper, which the robot calls -1."""
    chunk = decode(np.array([[0.0, -1.0, 0.9], [1.0, 0.5, 0.1]], np.float32), BOUNDS, LIBERO)
    np.testing.assert_allclose(chunk.actions, [[1.0, 1.0, -1.0], [4.0, 7.0, 1.0]], atol=1e-6)
    np.testing.assert_allclose(chunk.normalized, [[0.0, -1.0, -1.0], [1.0, 0.5, 1.0]])
    assert chunk.actions.dtype == chunk.normalized.dtype == np.float32


def test_normalize_by_hand() -> None:
    executed = np.array([[1.0, 1.0, -1.0], [4.0, 7.0, 1.0], [5.0, -1.0, 1.0]])
    expected = [[0.0, -1.0, 1.0], [1.0, 0.5, 0.0], [1.0, -1.0, 0.0]]
    np.testing.assert_allclose(normalize(executed, BOUNDS, LIBERO), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("raw", "executed"), [(1.0, -1), (0.51, -1), (0.5, 1), (0.49, 1), (0.0, 1), (-3.0, 1), (2, -1)]
)
def test_gripper_is_always_decided(raw: float, executed: float) -> None:
    chunk = decode(np.array([[0, 0, raw]], np.float32), BOUNDS, LIBERO)
    assert chunk.actions[0, 2] == chunk.normalized[0, 2] == executed


def test_without_a_gripper_every_dimension_is_plain() -> None:
    config = ActionConfig(action_dim=3, gripper="none")
    actions = np.random.default_rng(0).normal(size=(50, 3))
    statistics = statistics_of(actions, actions, 1, config).action
    assert statistics.mask == (True, True, True)
    inner = np.clip(actions, statistics.q01, statistics.q99)
    back = decode(normalize(inner, statistics, config), statistics, config)
    np.testing.assert_allclose(back.actions, inner, atol=1e-5)


@given(
    poses=npst.arrays(np.float64, (4, 2), elements=st.floats(0, 1)),
    grippers=npst.arrays(np.float64, (4, 1), elements=st.sampled_from([-1.0, 1.0])),
)
def test_round_trip(poses: np.ndarray, grippers: np.ndarray) -> None:
    executed = np.concatenate([poses * [6, 8] + [-2, 1], grippers], axis=1)
    chunk = decode(normalize(executed, BOUNDS, LIBERO), BOUNDS, LIBERO)
    np.testing.assert_allclose(chunk.actions, executed, atol=1e-5)
    assert np.abs(chunk.normalized).max() <= 1


@given(npst.arrays(np.float64, (5, 3), elements=st.floats(-1e6, 1e6)))
def test_targets_are_bounded(actions: np.ndarray) -> None:
    target = normalize(actions, BOUNDS, LIBERO)
    assert target.dtype == np.float32
    assert np.abs(target).max() <= 1


def test_decode_does_not_write_to_its_input() -> None:
    predicted = np.full((2, 3), 0.7, np.float32)
    decode(predicted, BOUNDS, LIBERO)
    assert np.array_equal(predicted, np.full((2, 3), 0.7, np.float32))


def test_statistics_of_executed_actions() -> None:
    rng = np.random.default_rng(1)
    poses, gripper = rng.normal(size=(1001, 2)), np.repeat([[-1.0], [1.0]], [600, 401], axis=0)
    poses[:, 1] = 0.25
    entry = statistics_of(np.concatenate([poses, gripper], axis=1), poses, 7, LIBERO)
    assert (entry.num_transitions, entry.num_trajectories) == (1001, 7)
    assert entry.action.mask == (True, True, False)
    assert entry.action.mean[2] == pytest.approx(600 / 1001)
    ordered = np.sort(poses[:, 0])
    assert (entry.action.q01[0], entry.action.q99[0]) == pytest.approx((ordered[10], ordered[990]))
    assert entry.proprio is not None and entry.proprio.mask is None


def test_a_dimension_that_never_moves_is_zero() -> None:
    constant = statistics_of(np.array([[0.3, 1.0, 1.0], [0.3, 2.0, -1.0]]), np.zeros((2, 5)), 1, LIBERO).action
    target = normalize(np.array([[0.3, 1.5, -1.0]]), constant, LIBERO)
    np.testing.assert_allclose(target, [[0.0, 0.0, 1.0]], atol=1e-6)
    np.testing.assert_allclose(decode(target, constant, LIBERO).actions, [[0.3, 1.5, -1.0]], atol=1e-6)


def test_proprio_is_clipped_to_the_quantiles() -> None:
    values = np.array([[-9.0, 5.0, 0.25], [1.0, 99.0, 7.0]])
    expected = [[-1.0, 0.0, 0.25], [0.0, 1.0, 7.0]]
    np.testing.assert_allclose(BOUNDS.normalize(values), expected, atol=1e-6)


def test_statistics_of_unequal_lengths_are_refused() -> None:
    values = BOUNDS.model_dump() | {"q99": (1.0, 2.0)}
    with pytest.raises(ValidationError, match="one number a dimension"):
        FeatureStatistics.model_validate(values)
