"""Which layers can be spared (Fig. 3): how alike each leaves its input, and what it costs to leave it out untrained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import spearmanr

from dyslctl.analysis.success import Success, success
from dyslctl.dysl.sensitivity import LeaveOut
from dyslctl.jobs.episodes import EpisodeRecord
from dyslctl.policy import Policy


@dataclass(frozen=True)
class Without:
    """The full model without one layer (:class:`~dyslctl.jobs.closed_loop.Around`)."""

    layer: int

    def __call__(self, policy: Policy) -> Policy:
        """``policy`` with another schedule."""
        policy.schedule = LeaveOut(self.layer)
        return policy

    def identity(self) -> dict[str, Any]:
        """For the manifest."""
        return {"without": self.layer}


@dataclass(frozen=True)
class Layer:
    """One decoder layer.

    Attributes:
        similarity: Mean cosine of its input and output.
        success: Of the model without it.
    """

    layer: int
    similarity: float
    success: Success


def sensitivity(
    similarity: Sequence[float], full: Sequence[EpisodeRecord], without: Mapping[int, Sequence[EpisodeRecord]]
) -> list[Layer]:
    """Each layer of ``without``, layer -> episodes, against the full model from the same initial states."""
    return [Layer(layer, similarity[layer], success(records, full)) for layer, records in without.items()]


def rank_correlation(layers: Sequence[Layer]) -> float | None:
    """Spearman's ``rho`` of similarity and success without the layer; ``None`` if either is the same for all layers."""
    columns = [layer.similarity for layer in layers], [layer.success.success_rate for layer in layers]
    if any(len(set(column)) < 2 for column in columns):
        return None
    return float(spearmanr(*columns).statistic)
