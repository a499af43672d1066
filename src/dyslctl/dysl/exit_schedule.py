"""Leaving early: the prefix runs, one choice is made, and the pass leaves through the exit that was chosen."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor

from dyslctl.dysl.exits import ExitModules
from dyslctl.dysl.query_layout import LastLayout
from dyslctl.engine import RUN, Jump, LayerSchedule, Step
from dyslctl.policy import Consultation
from dyslctl.types import LayerState


class ExitLadder:
    """The exits as an inference uses them: a snapshot of the adapters' weights, shared by any number of schedules.

    Attributes:
        exits: Ascending.
        num_layers: ``L``; as an exit it means the whole model.
        sizes: Of the modules.
        layout: Of the tokens at hand.
    """

    def __init__(self, modules: ExitModules) -> None:
        self.exits = modules.exits
        self.num_layers = modules.partition.num_layers
        self.sizes = modules.sizes
        self.layout = LastLayout(modules.sizes.chunk_length)
        self._adapters = {layer: modules.adapter(layer).bind() for layer in self.exits}

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
    """The cheapest exit whose predicted log damage stays below ``threshold``."""

    def __init__(self, ladder: ExitLadder, planner: Callable[[Tensor], Tensor], threshold: float) -> None:
        """``planner``: a bound :class:`ExitPlanner`."""
        super().__init__(ladder)
        self._planner, self._threshold = planner, threshold

    def choose(self, state: LayerState) -> int:
        """Ask the planner; the one place where the device is waited for."""
        features = self.ladder.layout.of(state).features(state.hidden, self.memory)
        predicted: list[float] = self._planner(features)[0].tolist()
        self.consulted.append(Consultation(self.ladder.exits[0], predicted[0]))
        return first_below(predicted, self._threshold, self.ladder.exits, self.ladder.num_layers)


def first_below(damages: Sequence[float], threshold: float, exits: Sequence[int], num_layers: int) -> int:
    """The first of ``exits`` whose damage is below ``threshold``, else ``num_layers``. Monotone in ``threshold``."""
    return next((exit_ for exit_, damage in zip(exits, damages, strict=True) if damage < threshold), num_layers)
