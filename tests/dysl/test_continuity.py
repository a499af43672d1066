from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.dysl.continuity import Continuity, ContinuityTracker, action_weights
from dyslctl.errors import ConfigError


def one_by_one(actions: np.ndarray, k: int) -> tuple[list[float | None], list[float | None]]:
    tracker = ContinuityTracker(k)
    seen = [tracker.commit(action[None]) for action in actions]
    return [c.values[0] for c in seen], [c.deltas[0] for c in seen]


def test_equation_1_by_hand() -> None:
    """A = 0, 1, 3, 3, 4 has differences 1, 2, 0, 1; windows of two: -1.5, -1, -0.5."""
    values, deltas = one_by_one(np.array([[0.0], [1], [3], [3], [4]]), k=2)
    assert values == [None, None, -1.5, -1.0, -0.5]
    assert deltas == [None, None, None, 0.5, 0.5]


def test_the_norm_is_euclidean() -> None:
    values, _ = one_by_one(np.array([[0.0, 0], [3, 4]]), k=1)
    assert values == [None, -5.0]


def test_first_defined_at_k_and_k_plus_1() -> None:
    values, deltas = one_by_one(np.random.default_rng(0).random((9, 3)), k=5)
    assert [v is None for v in values] == [t < 5 for t in range(9)]
    assert [d is None for d in deltas] == [t < 6 for t in range(9)]


def test_a_gripper_flip_contributes_two_over_k_and_takes_it_back() -> None:
    actions = np.zeros((16, 7))
    actions[:, 6] = -1
    actions[8:, 6] = 1
    _, deltas = one_by_one(actions, k=5)
    assert deltas[8] == pytest.approx(-0.4)
    assert deltas[13] == pytest.approx(0.4)
    assert [d for t, d in enumerate(deltas) if t >= 6 and t not in (8, 13)] == [0.0] * 8


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30), st.integers(1, 6))
def test_delta_telescopes_and_is_the_difference_of_equation_1(path: list[float], k: int) -> None:
    norms = [abs(b - a) for a, b in pairwise(path)]
    values, deltas = one_by_one(np.array(path)[:, None], k)
    for t in range(len(path)):
        if t >= k:
            assert values[t] == pytest.approx(-math.fsum(norms[t - k : t]) / k)
        delta = deltas[t]
        if t >= k + 1:
            before, now = values[t - 1], values[t]
            assert before is not None and now is not None and delta is not None
            assert delta == pytest.approx(now - before, abs=1e-12)
            assert delta == pytest.approx((norms[t - k - 1] - norms[t - 1]) / k)
        else:
            assert delta is None


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 6))
def test_chunks_and_single_actions_agree(lengths: list[int], k: int) -> None:
    actions = np.random.default_rng(sum(lengths)).random((sum(lengths), 2))
    values, deltas = one_by_one(actions, k)
    tracker, at = ContinuityTracker(k), 0
    for length in lengths:
        chunk = actions[at : at + length]
        measured = tracker.commit(chunk)
        assert list(measured.values) == values[at : at + length]
        assert list(measured.deltas) == deltas[at : at + length]
        at += length


def test_preview_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    tracker, untouched = ContinuityTracker(2), ContinuityTracker(2)
    history, guess, truth = rng.random((5, 2)), rng.random((3, 2)), rng.random((3, 2))
    for each in (tracker, untouched):
        each.commit(history)
    preview = tracker.preview(guess)
    assert preview == tracker.preview(guess)
    assert tracker.commit(truth) == untouched.commit(truth)
    assert preview != untouched.commit(guess)


def test_reset_forgets() -> None:
    actions = np.random.default_rng(0).random((4, 2))
    tracker = ContinuityTracker(2)
    first = tracker.commit(actions)
    tracker.reset()
    assert tracker.commit(actions) == first
    assert isinstance(first, Continuity)


def test_history_does_not_alias_the_callers_array() -> None:
    tracker, action = ContinuityTracker(1), np.zeros((1, 2))
    tracker.commit(action)
    action += 5
    assert tracker.preview(np.zeros((1, 2))).values == (0.0,)


def test_weights() -> None:
    assert action_weights(3, None).tolist() == [1, 1, 1]
    assert action_weights(3, 2, 0.25).tolist() == [1, 1, 0.25]
    assert action_weights(3, 2, 0.5, [2.0, 4.0, 0.5]).tolist() == [0.5, 0.25, 1.0]
    tracker = ContinuityTracker(1, action_weights(2, 1, 0.0))
    assert tracker.commit(np.array([[0.0, -1], [0.5, 1]])).values == (None, -0.5)


@pytest.mark.parametrize("std", [[1.0, 1.0], [1.0, 1.0, 0.0]])
def test_a_scale_must_fit_and_be_positive(std: list[float]) -> None:
    with pytest.raises(ConfigError, match="expected 3 positive"):
        action_weights(3, None, std=std)
