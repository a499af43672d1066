"""The best fixed pattern: one exit for every inference, with adapters trained for just that.

What a planner must beat: a model that is simply cut short. :class:`EpisodeExit` visits the states its exits learn from.
"""

from __future__ import annotations

import numpy as np

from dyslctl.baselines.random_skip import more_layers_hint
from dyslctl.dysl.exit_schedule import ExitLadder, ExitSchedule
from dyslctl.errors import ConfigError
from dyslctl.types import LayerState


def nearest_exit(ladder: ExitLadder, target_layers: float) -> int:
    """The exit that runs as near to ``target_layers`` as any does; of two, the cheaper one.

    Raises:
        ConfigError: If the exits are all deeper than that by half a layer or more.
    """
    if target_layers <= ladder.exits[0] - 0.5:
        first = ladder.exits[0]
        raise ConfigError(
            f"the first exit runs {first} layers, but {target_layers:g} were asked for", hint=more_layers_hint(first)
        )
    return min([*ladder.exits, ladder.num_layers], key=lambda layer: abs(layer - target_layers))


class EpisodeExit(ExitSchedule):
    """One exit for a whole episode, drawn where it begins: the states that every fixed exit would lead to."""

    def __init__(self, ladder: ExitLadder, *, seed: int = 0) -> None:
        super().__init__(ladder)
        self._seed = seed
        self.begin_episode(0)

    def begin_episode(self, seed: int) -> None:
        """Draw."""
        self._drawn = int(np.random.default_rng([self._seed, seed]).choice(self.ladder.exits))

    def choose(self, state: LayerState) -> int:
        """The episode's."""
        return self._drawn
