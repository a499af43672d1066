"""Leaving early: the prefix runs, one choice is made, and the pass leaves through the exit that was chosen."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor

from dyslctl.backbone import PackLinear
from dyslctl.dysl.exits import ExitModules
from dyslctl.dysl.query_layout import LastLayout
from dyslctl.engine import RUN, Jump, LayerSchedule, Step
from dyslctl.policy import Consultation
from dyslctl.runtime.linear import plain
from dyslctl.types import LayerState


class ExitLadder:
    """The exits as an inference uses them: a snapshot of the adapters' weights, shared by any number of schedules.

    Attributes:
        exits: Ascending.
        num_layers: ``L``; as an exit it means the whole model.
        sizes: Of the modules.
        layout: Of the tokens at hand.
    """

    def __init__(self, modules: ExitModules, pack: PackLinear = plain) -> None:
        """``pack``: how the adapters' matrices are multiplied, ``Backbone.pack``."""
        self.exits = modules.exits
        self.num_layers = modules.partition.num_layers
        self.sizes = modules.sizes
        self.layout = LastLayout(modules.sizes.chunk_length)
        self._adapters = {layer: modules.adapter(layer).bind(pack) for layer in self.exits}

    def jump(self, layer: int, state: LayerState, memory: Tensor) -> Jump:
        """Out of ``state``, before exit ``layer``, to the head, with the tokens that it may read."""
        layout, adapter = self.layout.of(state), self._adapters[layer]
        return Jump(self.num_layers, lambda hidden: adapter(hidden, memory, layout.slots), keep=layout.keep)


class ExitSchedule(LayerSchedule):
    """Chooses once an inference, before the first exit (or where a resumed pass begins), and leaves there.

    Attributes:
        ladder: The exits to choose from.
        memory: ``[1, P]``, what the policy meant to do; to be set before each inference.
        exit: What this inference chose; ``None`` before the choice.
        consulted: The planner's answer, where one was asked.
    """

    memory: Tensor

    def __init__(self, ladder: ExitLadder) -> None:
        self.ladder = ladder
        self.exit: int | None = None
        self.consulted: list[Consultation] = []

    @abstractmethod
    def choose(self, state: LayerState) -> int:
        """One of the exits, or ``L`` to run every layer. ``state`` is the one before the first exit."""

    def start(self, state: LayerState) -> None:
        """A new inference: nothing chosen yet."""
        self.exit, self.consulted = None, []

    def before(self, layer: int, state: LayerState) -> Step:
        """Run, or leave if this is the chosen exit."""
        if self.exit is None and layer >= self.ladder.exits[0]:
            self.exit = self.choose(state)
        return self.ladder.jump(layer, state, self.memory) if layer == self.exit else RUN


class FixedExit(ExitSchedule):
    """Always the same exit."""

    def __init__(self, ladder: ExitLadder, layer: int) -> None:
        super().__init__(ladder)
        self._layer = layer

    def choose(self, state: LayerState) -> int:
        """The same one."""
        return self._layer


class PlannedExit(ExitSchedule):
    """The exit with the least sum of predicted damage and layers: see :func:`worthwhile`.

    Attributes:
        tolerance: Of the next inferences.
        predicted: Log damage of every exit, as the planner said it last.
    """

    def __init__(self, ladder: ExitLadder, planner: Callable[[Tensor], Tensor], tolerance: float) -> None:
        """``planner``: a bound :class:`ExitPlanner`."""
        super().__init__(ladder)
        self._planner, self.tolerance = planner, tolerance
        self.predicted: list[float] = []

    def choose(self, state: LayerState) -> int:
        """Ask the planner; the one place where the device is waited for, unless the tokens changed."""
        features = self.ladder.layout.of(state).features(state.hidden, self.memory)
        self.predicted = self._planner(features)[0].tolist()
        self.consulted.append(Consultation(self.ladder.exits[0], self.predicted[0]))
        return self.worthwhile(self.tolerance)

    def worthwhile(self, tolerance: float) -> int:
        """What the last answer of the planner comes to at ``tolerance``."""
        return worthwhile(self.predicted, tolerance, self.ladder.exits, self.ladder.num_layers)


def worthwhile(log_damages: Sequence[float], tolerance: float, exits: Sequence[int], num_layers: int) -> int:
    """Where to leave: one of ``exits``, or ``num_layers`` for the whole model.

        argmin_e  (d_e / t)^2 + e / L        d_L = 0,  t = exp(tolerance)

    Of all rules with the same mean layers this one has the least mean squared damage (``1 / t^2`` is its
    price in layers). No damage of ``t`` or more is taken, and none that is not a number. Monotone in
    ``tolerance``; of two equal sums the cheaper.

    Args:
        log_damages: One an exit. Plain numbers: once an inference, arrays would cost more than the planner.
        tolerance: Log of the damage that weighs as much as all layers.
        exits: Ascending.
        num_layers: ``L``.
    """
    chosen, least = num_layers, 1.0
    for layer, damage in zip(reversed(exits), reversed(log_damages), strict=True):
        if damage < tolerance:
            cost = math.exp(2 * (damage - tolerance)) + layer / num_layers
            chosen, least = (layer, cost) if cost <= least else (chosen, least)
    return chosen
