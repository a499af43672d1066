"""The residual stream ``h_0 .. h_L`` of one full pass, for profiling (section 3.1) and stage 1 (Eq. 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.engine import LayerSchedule, forward
from dyslctl.types import LayerInputs, LayerState


class RecordStates(LayerSchedule):
    """Runs every layer and keeps the hidden state before the first and after each: ``states[i]`` is ``h_i``."""

    def __init__(self) -> None:
        self.states: list[Tensor] = []

    def start(self, state: LayerState) -> None:
        """``h_0``."""
        self.states = [state.hidden]

    def after(self, layer: int, state: LayerState) -> None:
        """``h_{layer + 1}``."""
        self.states.append(state.hidden)


@torch.no_grad()
def residual_states(backbone: Backbone, inputs: LayerInputs) -> tuple[list[Tensor], LayerState]:
    """One frozen pass.

    Returns:
        ``h_0 .. h_L``, each ``[B, T, H]``, and the final state, ready for the head.
    """
    schedule, state = RecordStates(), LayerState.of(inputs)
    forward(backbone, state, schedule)
    return schedule.states, state
