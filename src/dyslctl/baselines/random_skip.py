"""Random Skip: DySL's segments and jumps, with a coin in place of the controllers.

Each dynamic layer that is reached is skipped with one probability ``p``, solved so that the mean number of executed
layers equals a target. With the trained adapters it is what any learned decision must beat; without, the plain skip.
"""

from __future__ import annotations

import numpy as np

from dyslctl.dysl.partition import LayerPartition
from dyslctl.dysl.skip_modules import SkipModules
from dyslctl.engine import RUN, Jump, LayerSchedule, Step
from dyslctl.errors import ConfigError
from dyslctl.types import LayerState


def expected_layers(partition: LayerPartition, probability: float) -> float:
    """Mean executed layers: ``|S| + sum_g sum_{j=1..m_g} (1 - p)^j``.

    The ``j``-th layer of a segment runs iff none of the first ``j`` coins said skip.
    """
    keep = 1 - probability
    dynamic = sum(keep**j for segment in partition.segments for j in range(1, len(segment) + 1))
    return len(partition.static_layers) + dynamic


def skip_probability(partition: LayerPartition, target_layers: float) -> float:
    """The ``p`` whose mean executed layers is ``target_layers``, by bisection: the mean falls from ``L`` to ``|S|``.

    A target above ``L``, which re-predictions can cause, gives 0: no skipping scheme runs more.

    Raises:
        ConfigError: If the target is below the number of static layers.
    """
    if target_layers < len(partition.static_layers):
        raise ConfigError(
            f"random skipping runs at least the {len(partition.static_layers)} static layers, "
            f"but {target_layers:.2f} mean layers were asked for"
        )
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_layers(partition, middle) > target_layers else (low, middle)
    return 0.0 if target_layers >= partition.num_layers else (low + high) / 2


class RandomSkipSchedule(LayerSchedule):
    """Fresh coins for every inference; the ``n``-th inference of an episode depends on both seeds and ``n`` alone."""

    def __init__(
        self, partition: LayerPartition, probability: float, *, seed: int = 0, adapters: SkipModules | None = None
    ) -> None:
        """``adapters`` fill in for the skipped layers; ``None`` hands the hidden state on as it is."""
        self._probability = probability
        self._seed = seed
        self._column = {layer: column for column, layer in enumerate(partition.dynamic_layers)}
        self._jumps = {
            layer: Jump(partition.next_static(layer), None if adapters is None else adapters.adapter(layer).bind())
            for layer in partition.dynamic_layers
        }
        self.begin_episode(0)

    def begin_episode(self, seed: int) -> None:
        """Coins from here on derive from the schedule's seed and the episode's."""
        self._coins = np.random.default_rng([self._seed, seed])

    def start(self, state: LayerState) -> None:
        """One coin for each dynamic layer, tossed whether or not it is reached."""
        self._skips = self._coins.random(len(self._jumps)) < self._probability

    def before(self, layer: int, state: LayerState) -> Step:
        """Jump to the next static layer if this layer's coin says so."""
        jump = self._jumps.get(layer)
        return jump if jump is not None and self._skips[self._column[layer]] else RUN
