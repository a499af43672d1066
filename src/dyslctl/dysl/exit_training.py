"""What exits and planner learn from: the states before the exits, and what the full model made of them.

The prefix is frozen and nothing runs behind an exit but its adapter and the head. So one pass without gradients gives
the inputs of all exits, and no gradient ever goes through a decoder layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.dysl.exits import ExitModules
from dyslctl.dysl.plan_memory import action_slots
from dyslctl.dysl.query_layout import query_tokens
from dyslctl.engine import EXIT, RUN, LayerSchedule, Step, forward
from dyslctl.types import LayerInputs, LayerState, joined_history

LATER_WEIGHT = 0.3
"""Of actions behind the executed ones: they are predicted, never executed, and cheap to learn from."""


@dataclass(frozen=True)
class ExitViews:
    """``B`` samples as ``E`` exits see them: query tokens only.

    Attributes:
        hidden: ``[B, E, K, H]``, ``h_e`` by exit.
        positions: ``[B, K]`` int64.
        kinds: ``[B, K]`` int64.
        memory: ``[B, P]``.
        history: ``[B, Q]`` as in :class:`~dyslctl.types.LayerInputs`, or ``None``.
    """

    hidden: Tensor
    positions: Tensor
    kinds: Tensor
    memory: Tensor
    history: Tensor | None = None

    def __len__(self) -> int:
        return len(self.hidden)

    def at(self, index: int) -> LayerState:
        """The state before exit number ``index``."""
        return LayerState(self.hidden[:, index], self.positions, self.kinds, history=self.history)

    def rows(self, index: Tensor) -> ExitViews:
        """The samples ``index`` ``[n]`` int64."""
        history = None if self.history is None else self.history[index]
        return ExitViews(self.hidden[index], self.positions[index], self.kinds[index], self.memory[index], history)

    def to(self, device: torch.device, dtype: torch.dtype) -> ExitViews:
        """The same samples on ``device``, hidden states and memory in ``dtype``."""
        hidden, memory = self.hidden.to(device, dtype), self.memory.to(device, dtype)
        history = None if self.history is None else self.history.to(device)
        return ExitViews(hidden, self.positions.to(device), self.kinds.to(device), memory, history)

    @classmethod
    def join(cls, parts: Sequence[ExitViews]) -> ExitViews:
        """All samples of ``parts``, which have equal token counts."""
        columns = [(part.hidden, part.positions, part.kinds, part.memory) for part in parts]
        history = joined_history([(len(part), part.history) for part in parts])
        hidden, positions, kinds, memory = (torch.cat(column) for column in zip(*columns, strict=True))
        return cls(hidden, positions, kinds, memory, history)


@torch.no_grad()
def exit_views(backbone: Backbone, inputs: LayerInputs, memory: Tensor, exits: Sequence[int]) -> ExitViews:
    """One frozen pass over samples without padding, as far as the last of ``exits``; ``memory`` is ``[B, P]``."""
    record = RecordExits(exits)
    forward(backbone, LayerState.of(inputs), record)
    return record.views(memory, inputs.history)


class RecordExits(LayerSchedule):
    """Keeps the query tokens before each exit, and leaves at the last one unless told to go on. For one pass."""

    def __init__(self, exits: Sequence[int], *, leave: bool = True) -> None:
        self._exits, self._leave = tuple(exits), leave
        self._states: list[LayerState] = []

    def before(self, layer: int, state: LayerState) -> Step:
        """Keep what an exit here would adapt."""
        if layer in self._exits:
            self._states.append(_queries(state))
        return EXIT if self._leave and layer == self._exits[-1] else RUN

    @property
    def hidden(self) -> list[Tensor]:
        """``[B, K, H]`` by exit."""
        return [state.hidden for state in self._states]

    def views(self, memory: Tensor, history: Tensor | None) -> ExitViews:
        """What it kept, with what the exits are told beside, as in :class:`ExitViews`."""
        last = self._states[-1]
        hidden = torch.stack(self.hidden, 1)
        return ExitViews(hidden, last.positions, last.kinds, memory.to(hidden.dtype), history)


def _queries(state: LayerState) -> LayerState:
    """A copy of ``state`` with the query tokens alone."""
    seen = state.fork()
    seen.select(query_tokens(seen))
    return seen


def exit_actions(backbone: Backbone, modules: ExitModules, views: ExitViews) -> Tensor:
    """What the head makes of every exit: ``[E, B, N, A]``, normalised. Samples of a batch are independent."""
    predicted = []
    for index, layer in enumerate(modules.exits):
        state = views.at(index)
        slots = action_slots(state, modules.sizes.chunk_length)
        state.hidden = modules.adapter(layer)(state.hidden, views.memory, slots)
        backbone.reset()
        predicted.append(backbone.predict(state))
    return torch.stack(predicted)


def exit_losses(predicted: Tensor, full: Tensor, executed: int) -> Tensor:
    """Mean L1 distance of every exit to the full model's actions: ``[E]`` fp32.

    Args:
        predicted: ``[E, B, N, A]`` of :func:`exit_actions`.
        full: ``[B, N, A]``.
        executed: Leading actions with weight 1; later ones have :data:`LATER_WEIGHT`.
    """
    weights = torch.full((full.shape[1],), LATER_WEIGHT, device=full.device)
    weights[:executed] = 1.0
    return ((predicted.float() - full).abs() * weights[:, None]).mean((1, 2, 3))


@torch.no_grad()
def measure_scales(backbone: Backbone, modules: ExitModules, inputs: LayerInputs) -> None:
    """Set every adapter's fixed ``scale`` to ``RMS(h_L - h_e)`` over the query tokens: what the skipped layers add."""
    state, record = LayerState.of(inputs), RecordExits(modules.exits, leave=False)
    forward(backbone, state, record)
    last = _queries(state).hidden.float()
    for layer, before in zip(modules.exits, record.hidden, strict=True):
        modules.adapter(layer).scale.fill_(math.sqrt((last - before.float()).square().mean().item()))
