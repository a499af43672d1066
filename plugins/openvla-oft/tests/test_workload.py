from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from dyslctl_openvla_oft import OpenVLAOFT
from dyslctl_openvla_oft.modeling import OFTModel
from torch.utils.flop_counter import FlopCounterMode

from dyslctl.types import Observation


def test_released_size(backbone: OpenVLAOFT) -> None:
    """One LLaMA layer: ``4 d^2 + 3 d ff + 2 d`` parameters with d = 4096, ff = 11008."""
    workload = backbone.workloads()["openvla-7b"]
    assert (workload.num_layers, workload.tokens, workload.hidden_size) == (32, 605, 4096)
    assert workload.layer_params == 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    # DINOv2 23 blocks, SigLIP 26 blocks, both views, projector, proprioception.
    assert workload.encode_gflop == pytest.approx(315.6 + 421.7 + 73.1 + 0.03, abs=0.1)
    assert workload.encode_params / 1e6 == pytest.approx(290.6 + 397.2 + 71.4 + 16.8, abs=0.2)
    assert workload.head_gflop == pytest.approx(2.4, abs=0.05)
    assert workload.head_params / 1e6 == pytest.approx(151.1, abs=0.05)


def test_own_size(backbone: OpenVLAOFT, observe: Callable[..., Observation]) -> None:
    workload = backbone.workload()
    inputs = backbone.encode([observe("put the red cube in the purple bin")])
    assert workload.tokens == inputs.hidden.shape[1]
    assert workload.layer_params == sum(parameter.numel() for parameter in backbone.model.layers(1).parameters())
    # Per action: LN-free matrices 224 x 32, 2 of 32 x 32, 32 x 7; three actions.
    assert workload.head_gflop == pytest.approx(2 * 3 * (224 * 32 + 2 * 32 * 32 + 32 * 7) / 1e9)


def test_vision_flop_are_what_torch_counts(backbone: OpenVLAOFT) -> None:
    model = OFTModel(backbone.model.config, "eager")  # the counter does not see the CPU's fused attention
    assert model.proprio_projector is not None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.projector(model.vision_backbone(torch.zeros(1, 12, 28, 28)))
        model.proprio_projector(torch.zeros(1, 5))
    assert backbone.workload().encode_gflop == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-9)
