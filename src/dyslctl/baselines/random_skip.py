"""Random skipping: a coin in place of every learned decision, at the same mean number of executed layers.

* :class:`RandomSkipSchedule`: the paper's partition, plain jumps over one layer or to the next static one.
* :class:`RandomExits`: the trained exits. What any learned decision must beat.

One probability ``p`` for every coin, solved so that the mean equals a target. The DySL-VLA paper names "Random Skip" in
its tables and defines neither the draw nor the rate, so both readings are here (:data:`~dyslctl.dysl.partition.Reach`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dyslctl.dysl.exit_schedule import ExitLadder, ExitSchedule
from dyslctl.dysl.partition import LayerPartition, Reach
from dyslctl.engine import RUN, Jump, LayerSchedule, Step
from dyslctl.errors import ConfigError
from dyslctl.types import LayerState


def expected_layers(partition: LayerPartition, probability: float, reach: Reach = "segment") -> float:
    """Mean executed layers of random skips.

        segment:  |S| + sum_g sum_{j=1..m_g} (1 - p)^j
        layer:    |S| + (L - |S|) (1 - p)

    With segments the ``j``-th layer of one runs iff none of its first ``j`` coins said skip.
    """
    keep = 1 - probability
    if reach == "layer":
        return len(partition.static_layers) + keep * len(partition.dynamic_layers)
    dynamic = sum(keep**j for segment in partition.segments for j in range(1, len(segment) + 1))
    return len(partition.static_layers) + dynamic


def expected_exit(exits: Sequence[int], num_layers: int, probability: float) -> float:
    """Mean executed layers of random exits: ``sum_k p (1 - p)^(k - 1) e_k + (1 - p)^E L``."""
    keep = 1 - probability
    left = sum(probability * keep**k * layer for k, layer in enumerate(exits))
    return left + keep ** len(exits) * num_layers


def skip_probability(partition: LayerPartition, target_layers: float, reach: Reach = "segment") -> float:
    """The ``p`` at which random skips run ``target_layers`` on average; a target above ``L`` gives 0.

    Raises:
        ConfigError: If the target is below the number of static layers.
    """
    return _solve(lambda p: expected_layers(partition, p, reach), target_layers, "the static layers")


def exit_probability(exits: Sequence[int], num_layers: int, target_layers: float) -> float:
    """The ``p`` at which random exits run ``target_layers`` on average; a target above ``L`` gives 0.

    Raises:
        ConfigError: If the target is below the first exit.
    """
    return _solve(lambda p: expected_exit(exits, num_layers, p), target_layers, "those before the first exit")


def more_layers_hint(least: float) -> str:
    """How a method that is told its mean number of layers is told ``least``."""
    return (
        f"analyze pareto --budgets and analyze ablation --layers: {least:g} or more; eval and bench match another "
        f"method, which dyslctl calibrate --target-layers sets to {least:g} or more"
    )


def _solve(mean: Callable[[float], float], target: float, always: str) -> float:
    """Bisection: ``mean`` falls from ``p = 0`` to ``p = 1``. Re-predictions can ask for more than there is at 0."""
    least = mean(1.0)
    if target < least:
        raise ConfigError(
            f"random skipping runs at least {least:g} layers, {always}, but {target:.2f} mean layers were asked for",
            hint=more_layers_hint(least),
        )
    if target >= mean(0.0):
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) > target else (low, middle)
    return (low + high) / 2


class RandomSkipSchedule(LayerSchedule):
    """Plain skips. Fresh coins an inference; the ``n``-th of an episode depends on both seeds and ``n`` alone."""

    def __init__(
        self, partition: LayerPartition, probability: float, *, seed: int = 0, reach: Reach = "segment"
    ) -> None:
        self._probability = probability
        self._seed = seed
        self._column = {layer: column for column, layer in enumerate(partition.dynamic_layers)}
        self._jumps = {layer: Jump(partition.landing(layer, reach)) for layer in partition.dynamic_layers}
        self.begin_episode(0)

    def begin_episode(self, seed: int) -> None:
        """Coins from here on derive from the schedule's seed and the episode's."""
        self._coins = np.random.default_rng([self._seed, seed])

    def start(self, state: LayerState) -> None:
        """One coin for each dynamic layer, tossed whether or not it is reached."""
        self._skips = self._coins.random(len(self._jumps)) < self._probability

    def before(self, layer: int, state: LayerState) -> Step:
        """Jump over this layer, or to the next static one, if this layer's coin says so."""
        jump = self._jumps.get(layer)
        return jump if jump is not None and self._skips[self._column[layer]] else RUN


class RandomExits(ExitSchedule):
    """Trained exits. One coin an exit and inference, as in :class:`RandomSkipSchedule`; the first that says so wins."""

    def __init__(self, ladder: ExitLadder, probability: float, *, seed: int = 0) -> None:
        super().__init__(ladder)
        self._probability = probability
        self._seed = seed
        self.begin_episode(0)

    def begin_episode(self, seed: int) -> None:
        """Coins from here on derive from the schedule's seed and the episode's."""
        self._coins = np.random.default_rng([self._seed, seed])

    def choose(self, state: LayerState) -> int:
        """Toss."""
        leaves = self._coins.random(len(self.ladder.exits)) < self._probability
        chosen = (layer for layer, coin in zip(self.ladder.exits, leaves, strict=True) if coin)
        return next(chosen, self.ladder.num_layers)
