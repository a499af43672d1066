"""Zero-shot skip sensitivity (Fig. 3 c-d): how far the action moves when one layer is left out, with nothing for it.

    D_i = E | A_full - A_without_i |

Offline, on the states that were sampled, where the paper plots the success of a robot that acts without the layer.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from dyslctl.backbone import Backbone
from dyslctl.dysl.states import residual_states
from dyslctl.engine import RUN, Jump, LayerSchedule, Step, forward
from dyslctl.types import LayerInputs, LayerState


class LeaveOut(LayerSchedule):
    """Every layer but one, which is jumped over as it is: no adapter."""

    def __init__(self, layer: int) -> None:
        self._layer = layer

    def before(self, layer: int, state: LayerState) -> Step:
        """Run, or jump."""
        return Jump(layer + 1) if layer == self._layer else RUN


@torch.inference_mode()
def skip_sensitivity(backbone: Backbone, batches: Iterable[LayerInputs]) -> np.ndarray:
    """``[L]`` float64, ``D_i``: a mean over samples, actions and dimensions of normalised actions.

    Args:
        backbone: The frozen model; a head's memory is left as it was.
        batches: At least one sample in all. Each costs ``L + 1`` passes.
    """
    sums, samples = np.zeros(backbone.spec.num_layers), 0
    for inputs in batches:
        memory = backbone.snapshot()
        full = backbone.predict(residual_states(backbone, inputs)[1])
        samples += len(full)
        for layer in range(backbone.spec.num_layers):
            backbone.restore(memory)
            state = LayerState.of(inputs)
            forward(backbone, state, LeaveOut(layer))
            sums[layer] += float((backbone.predict(state) - full).abs().double().mean((1, 2)).sum())
        backbone.restore(memory)
    return sums / samples
