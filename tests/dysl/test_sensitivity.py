"""How far the action moves without a layer."""

from __future__ import annotations

import numpy as np
import torch

from dyslctl.dysl.sensitivity import skip_sensitivity
from dyslctl.types import LayerInputs, TokenKind


class Sum:
    """Layer ``i`` adds ``i``; the head reads the one token, and remembers how often it was asked."""

    class spec:
        num_layers = 4

    def __init__(self):
        self.memory = 0

    def run_layer(self, layer, state):
        return state.hidden + layer

    def predict(self, state):
        self.memory += 1
        return state.hidden + 100 * (self.memory > 1)

    def snapshot(self):
        return self.memory

    def restore(self, memory):
        self.memory = memory

    def reset(self):
        self.memory = 0


def inputs(samples):
    hidden = torch.zeros(samples, 1, 2)
    return LayerInputs(hidden, torch.zeros(samples, 1).long(), torch.full((samples, 1), int(TokenKind.ACTION)))


def test_by_hand():
    """Without layer i the sum lacks i, in every sample and dimension; nothing is remembered from pass to pass."""
    backbone = Sum()
    assert skip_sensitivity(backbone, [inputs(2), inputs(3)]).tolist() == [0.0, 1.0, 2.0, 3.0]
    assert backbone.memory == 0


def test_what_the_head_remembers_is_left_out_and_left_alone():
    backbone = Sum()
    backbone.memory = 7
    assert skip_sensitivity(backbone, [inputs(2)]).tolist() == [0.0, 1.0, 2.0, 3.0]
    assert backbone.memory == 7


def test_every_sample_counts_alike(tiny_backbone, tiny_suite):
    """Two batches of unequal size against the same samples one by one."""
    backbone, suite = tiny_backbone(), tiny_suite()
    seen = [shown for spec in suite.episodes("train", 2) for shown in suite.demonstrate(spec).observations][:5]
    together = skip_sensitivity(backbone, [backbone.encode(seen[:2]), backbone.encode(seen[2:])])
    alone = skip_sensitivity(backbone, [backbone.encode([one]) for one in seen])
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert (together > 0).all()
