"""How important a visual token is, gathered from layer to layer (SpecPrune-VLA, section 5)."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-6


def rank_weights(scores: Tensor, slope: float) -> Tensor:
    """The weight of each token's rank, ``[n]``, summing to one.

        w_i = sigmoid(-k rank_i) / sum_j sigmoid(-k rank_j)                             (6)

    Args:
        scores: ``[n]``; the largest has rank 0, the smallest rank 1, the others evenly between; of equals the first.
        slope: ``k``.
    """
    order = scores.sort(descending=True, stable=True).indices
    ranks = torch.empty_like(scores)
    ranks[order] = torch.linspace(0, 1, len(scores), device=scores.device, dtype=scores.dtype)
    weights = torch.sigmoid(-slope * ranks)
    return weights / weights.sum()


def confidence(entropy: Tensor) -> Tensor:
    """``1 / (H + epsilon)``: a layer whose attention is focused is trusted more (8)."""
    return 1 / (entropy + EPSILON)


def moved(importance: Tensor, weights: Tensor, trust: Tensor, rate: float) -> Tensor:
    """The moving average ``S`` after one more layer.

    s_i = w_rank,i w_conf                                                               (5)
    S_i <- (1 - beta) S_i + beta s_i                                                    (9)
    """
    return (1 - rate) * importance + rate * weights * trust


def min_max(scores: Tensor) -> Tensor:
    """``[n]`` scaled to 0 .. 1, so that layers compare; all equal: 0."""
    span = scores.max() - scores.min()
    return (scores - scores.min()) / span.clamp(min=torch.finfo(scores.dtype).tiny)
