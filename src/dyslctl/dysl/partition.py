"""Static and dynamic layers (section 3.2): which layers always run, and the segments between them.

Layers are 0-based and ``h_i`` is the input of layer ``i``; ``h_L`` is what the head reads. ``L`` itself acts as a
virtual static layer after the last one, so every dynamic layer has a next static layer to jump to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from dyslctl.errors import ConfigError

if TYPE_CHECKING:  # the guidance imports this file, and needs no torch
    from dyslctl.dysl.similarity import SimilarityResult

Criterion = Literal["similarity", "sensitivity", "path-cost", "uniform"]


@dataclass(frozen=True)
class Segment:
    """Consecutive dynamic layers ``start .. stop - 1``; ``stop`` is the next static layer, or ``L``."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def layers(self) -> range:
        """The dynamic layers, ascending."""
        return range(self.start, self.stop)


Reach = Literal["segment", "layer"]
"""What one skip leaves out: the rest of its segment, up to the next static layer, or its own layer alone."""


@dataclass(frozen=True)
class LayerPartition:
    """Every layer is static (always runs) or dynamic (may be skipped).

    Attributes:
        num_layers: ``L``.
        static_layers: Ascending ids.

    Raises:
        ConfigError: If an id is out of range, repeated or out of order.
    """

    num_layers: int
    static_layers: tuple[int, ...]

    def __post_init__(self) -> None:
        ids = self.static_layers
        if list(ids) != sorted(set(ids)) or any(not 0 <= i < self.num_layers for i in ids):
            raise ConfigError(f"static layers must be ascending ids in 0..{self.num_layers - 1}, found {list(ids)}")

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The runs of dynamic layers, first to last; two adjacent static layers have none between them."""
        borders = [-1, *self.static_layers, self.num_layers]
        return tuple(Segment(a + 1, b) for a, b in pairwise(borders) if b > a + 1)

    @property
    def dynamic_layers(self) -> tuple[int, ...]:
        """Every layer that is not static, ascending."""
        return tuple(layer for segment in self.segments for layer in segment.layers)

    def next_static(self, layer: int) -> int:
        """``min{s in S + {L}: s > layer}``: where a skip at ``layer`` lands."""
        return min((s for s in self.static_layers if s > layer), default=self.num_layers)

    def landing(self, layer: int, reach: Reach = "segment") -> int:
        """Where a skip at ``layer`` goes on: before the next static layer, or before the next layer."""
        return self.next_static(layer) if reach == "segment" else layer + 1


def tail(partition: LayerPartition) -> LayerPartition:
    """The leading run of static layers stays; every later layer is dynamic, one segment up to the head.

    Raises:
        ConfigError: If layer 0 is dynamic: something must run before anything can be decided.
    """
    prefix = [layer for position, layer in enumerate(partition.static_layers) if layer == position]
    if not prefix:
        raise ConfigError(
            f"expected layer 0 to be static, found static layers {list(partition.static_layers)}",
            hint="dyslctl profile makes the first layer static",
        )
    return LayerPartition(partition.num_layers, tuple(prefix))


def static_count(num_layers: int, ratio: float) -> int:
    """Static layers at a ratio ``r``: ``floor(r L + 0.5)``.

    Raises:
        ConfigError: If ``ratio`` is not in (0, 1).
    """
    if not 0 < ratio < 1:
        raise ConfigError(f"the static ratio must lie between 0 and 1, found {ratio}")
    return math.floor(ratio * num_layers + 0.5)


def default_static_count(num_layers: int) -> int:
    """The paper's 20 %, but never fewer than two layers besides the first and the last.

    At the published depths, 24 and 32, this is the 20 % alone; in a shallow model the two forced layers would leave
    nothing for the profile to choose.
    """
    return min(num_layers, max(static_count(num_layers, 0.2), 4))


@dataclass(frozen=True)
class StaticBudget:
    """How many static layers to choose, and among which.

    The first and the last live layer are static whatever the criterion says: without them a skip could replace
    everything before the first static layer, or hand the head an adapter's output.

    Attributes:
        num_layers: ``L``.
        count: Static layers in total, the forced ones included.
        last_live: The last layer the head depends on; later ones are never chosen.

    Raises:
        ConfigError: If the count cannot hold the forced layers or exceeds the live layers.
    """

    num_layers: int
    count: int
    last_live: int

    def __post_init__(self) -> None:
        live = self.last_live + 1
        if not len(self.forced) <= self.count <= live:
            raise ConfigError(
                f"{self.count} static layers of {self.num_layers}: expected {len(self.forced)} "
                f"(forced: {list(self.forced)}) to {live} (live)",
                hint=f"choose a {'larger' if self.count < live else 'smaller'} --ratio or profile.static_layers",
            )

    @property
    def forced(self) -> tuple[int, ...]:
        """The ids that are static in any case, ascending."""
        return (0, self.last_live) if self.last_live else (0,)


def choose_static(
    criterion: Criterion, budget: StaticBudget, result: SimilarityResult, sensitivity: np.ndarray | None = None
) -> LayerPartition:
    """The static layers that ``criterion`` picks from a profile. A given list needs no criterion: ``LayerPartition``.

    Args:
        criterion: The rule.
        budget: How many, among which.
        result: How alike each layer leaves its input.
        sensitivity: ``[L]``, how far the action moves without each layer, for the criterion of that name.

    Raises:
        ConfigError: If the criterion is unknown, or lacks what it ranks by.
    """
    if criterion == "sensitivity":
        if sensitivity is None:
            raise ConfigError(
                "criterion 'sensitivity': expected how far the action moves without each layer, found none"
            )
        return by_similarity(sensitivity, budget, tie_breakers=[result.relative_update])
    if criterion == "similarity":
        ties = [result.relative_update]
        return by_similarity(result.importance, budget, standard_error=result.standard_error, tie_breakers=ties)
    if criterion == "path-cost":
        return by_path_cost(result.cosines, budget)
    if criterion == "uniform":
        return uniform(budget)
    raise ConfigError(f"criterion: expected one of {get_args(Criterion)}, found '{criterion}'")


def by_similarity(
    importance: Sequence[float] | np.ndarray,
    budget: StaticBudget,
    *,
    standard_error: Sequence[float] | np.ndarray | None = None,
    tie_breakers: Sequence[Sequence[float] | np.ndarray] = (),
) -> LayerPartition:
    """The layers that change the residual stream most: forced ones first, then by falling importance.

    Args:
        importance: ``[L]``, ``I_i = 1 - E cos(h_i, h_{i+1})``.
        budget: How many, among which.
        standard_error: ``[L]``; layers closer to the best candidate than its standard error tie with it.
        tie_breakers: ``[L]`` each, larger wins, first to last (skip sensitivity, relative update); then the lower id.
    """
    error = np.zeros(budget.num_layers) if standard_error is None else np.asarray(standard_error)
    chosen = list(budget.forced)
    while len(chosen) < budget.count:
        candidates = [i for i in range(budget.last_live + 1) if i not in chosen]
        best = max(candidates, key=lambda i: importance[i])
        ties = [i for i in candidates if importance[best] - importance[i] < error[best] or i == best]
        chosen.append(max(ties, key=lambda i: (*(breaker[i] for breaker in tie_breakers), -i)))
    return LayerPartition(budget.num_layers, tuple(sorted(chosen)))


def harmonic_law(length: int) -> np.ndarray:
    """``P(offset j) = (1/j) / H_m`` for ``j = 1..m``: ``[length]``, sums to 1 (section 3.4)."""
    weights = 1 / np.arange(1, length + 1)
    return np.asarray(weights / weights.sum())


def jump_cost(cosines: np.ndarray, start: int, stop: int) -> float:
    """Expected ``1 - cos(h_i, h_stop)`` of one jump out of layers ``start .. stop - 1``, harmonic in the offset."""
    return float(harmonic_law(stop - start) @ (1 - cosines[start:stop, stop])) if stop > start else 0.0


def by_path_cost(cosines: np.ndarray, budget: StaticBudget) -> LayerPartition:
    """The static set whose jumps land nearest to where they left: exact dynamic programme, ``O(n L^2)``.

    DySL replaces ``h_i`` by an estimate of ``h_s``, so this minimises the sum over segments of :func:`jump_cost`.

    Args:
        cosines: ``[L+1, L+1]``, ``E cos(h_a, h_b)``.
        budget: How many, among which.
    """
    end = budget.num_layers
    best: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {(0, -1): (0.0, ())}
    for placed in range(1, budget.count + 2):
        stops = [end] if placed == budget.count + 1 else range(budget.last_live + 1)
        for stop in stops:
            options = [
                (cost + jump_cost(cosines, previous + 1, stop), chosen)
                for (n, previous), (cost, chosen) in best.items()
                if n == placed - 1 and previous < stop and not _leaves_out(budget.forced, previous, stop)
            ]
            if options:
                cost, chosen = min(options)
                best[placed, stop] = (cost, chosen if stop == end else (*chosen, stop))
    return LayerPartition(end, best[budget.count + 1, end][1])


def _leaves_out(forced: Sequence[int], previous: int, stop: int) -> bool:
    """Whether a forced layer lies between ``previous`` (or -1) and ``stop``, so that ``stop`` cannot come next."""
    return any(previous < layer < stop for layer in forced)


def uniform(budget: StaticBudget) -> LayerPartition:
    """Evenly spaced from layer 0 to the last live one: a control that looks at no activation."""
    places = np.floor(np.linspace(0, budget.last_live, budget.count) + 0.5).astype(int)
    return LayerPartition(budget.num_layers, tuple(int(place) for place in places))
