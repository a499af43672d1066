"""A layer that some tokens skip is that layer, of which those tokens take the adapter's output in place of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dyslctl_openvla_oft import OpenVLA, OpenVLAOFT
from dyslctl_openvla_oft.random_checkpoint import published_config, write_random_checkpoint

from dyslctl.baselines.flexidepth import flexidepth_modules
from dyslctl.baselines.flexidepth_tokens import TokenRouting, require_token_skips
from dyslctl.dysl.skip_modules import SkipSizes
from dyslctl.engine import forward
from dyslctl.errors import ConfigError
from dyslctl.types import LayerState, Observation

Observe = Callable[..., Observation]


@torch.no_grad()
def test_gathering_is_masking(backbone: OpenVLAOFT, observe: Observe) -> None:
    torch.manual_seed(1)
    layers, size = backbone.spec.num_layers, backbone.spec.hidden_size
    modules = flexidepth_modules(layers, SkipSizes(size, 8, 16)).eval()
    for parameter in modules.controllers.parameters():
        torch.nn.init.normal_(parameter)
    for layer in range(layers):
        torch.nn.init.normal_(modules.adapter(layer).up.weight, std=0.1)
    state, expected = (LayerState.of(backbone.encode([observe()])) for _ in range(2))
    trace, counts = forward(backbone, state, TokenRouting(backbone, modules, 0.5)), list[int]()
    for layer in range(layers):
        skips = modules.controller(layer)(expected.hidden).sigmoid() > 0.5
        counts.append(int((~skips).sum()))
        both = modules.adapter(layer)(expected.hidden), backbone.run_layer(layer, expected)
        expected.hidden = torch.where(skips[..., None], *both)
    assert trace.tokens == [count for count in counts if count]
    assert any(1 < count < expected.hidden.shape[1] for count in counts)
    torch.testing.assert_close(state.hidden, expected.hidden, atol=1e-5, rtol=1e-5)


def test_a_head_that_generates_is_refused(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "checkpoint", published_config("tiny", "tokens"))
    with pytest.raises(ConfigError, match="the head of OpenVLA generates"):
        require_token_skips(OpenVLA.load(tmp_path / "checkpoint"))
