from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.pruning.importance import confidence, min_max, moved, rank_weights


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_rank_weights_by_hand() -> None:
    """Ranks 1, 0 and a half of the scores 0.1, 0.7 and 0.2."""
    raw = [sigmoid(-5), sigmoid(0), sigmoid(-2.5)]
    expected = torch.tensor([value / sum(raw) for value in raw])
    torch.testing.assert_close(rank_weights(torch.tensor([0.1, 0.7, 0.2]), 5.0), expected)
    assert rank_weights(torch.tensor([3.0]), 5.0).tolist() == [1.0]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.floats(0.1, 20))
def test_weights_sum_to_one_and_follow_the_scores(scores: list[int], slope: float) -> None:
    weights = rank_weights(torch.tensor(scores, dtype=torch.float32), slope)
    assert math.isclose(float(weights.sum()), 1, rel_tol=1e-5)
    ordered = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    assert weights[ordered].tolist() == sorted(weights.tolist(), reverse=True), "of equals the first is the better"


def test_confidence_by_hand() -> None:
    torch.testing.assert_close(confidence(torch.tensor([0.5, 0.0])), torch.tensor([2.0, 1e6]), rtol=1e-5, atol=0)


def test_the_moving_average_by_hand() -> None:
    """From 0, weights .7 and .3 of a layer trusted 2, then .1 and .9 of one trusted 10, at a fifth each."""
    zero, first, second = torch.zeros(2), torch.tensor([0.7, 0.3]), torch.tensor([0.1, 0.9])
    once = moved(zero, first, torch.tensor(2.0), 0.2)
    torch.testing.assert_close(once, torch.tensor([0.28, 0.12]))
    torch.testing.assert_close(moved(once, second, torch.tensor(10.0), 0.2), torch.tensor([0.424, 1.896]))


def test_scores_are_scaled() -> None:
    torch.testing.assert_close(min_max(torch.tensor([0.2, 0.4, 0.3])), torch.tensor([0.0, 1.0, 0.5]))
    assert min_max(torch.tensor([0.2, 0.2])).tolist() == [0, 0]
