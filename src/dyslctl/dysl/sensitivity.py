"""Zero-shot skip sensitivity (Fig. 3 c-d): how far the action moves when one layer is left out, with nothing for it.

    D_i = E | A_full - A_without_i |

Offline, on the states that were sampled, where the paper plots the success of a robot that acts without the layer.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.engine import RUN, FullSchedule, Jump, LayerSchedule, Step, forward
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
        backbone: The frozen model; its head remembers nothing but what ``batches`` say, and is left as it was.
        batches: At least one sample in all. Each costs ``L + 1`` passes.
    """
    sums, samples = np.zeros(backbone.spec.num_layers), 0
    for inputs in batches:
        memory = backbone.snapshot()
        full = _predicted(backbone, inputs, FullSchedule())
        samples += len(full)
        for layer in range(backbone.spec.num_layers):
            without = _predicted(backbone, inputs, LeaveOut(layer))
            sums[layer] += float((without - full).abs().double().mean((1, 2)).sum())
        backbone.restore(memory)
    return sums / samples


def _predicted(backbone: Backbone, inputs: LayerInputs, schedule: LayerSchedule) -> Tensor:
    """``[B, N, A]``, by a head without a past."""
    state = LayerState.of(inputs)
    forward(backbone, state, schedule)
    backbone.reset()
    return backbone.predict(state)
