"""A layer beside keys and values of others is the layer with those tokens; and a head that generates sees them too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from dyslctl_openvla_oft import OpenVLA, OpenVLAOFT
from dyslctl_openvla_oft.random_checkpoint import INSTRUCTIONS, published_config, write_random_checkpoint

from dyslctl.engine import FullSchedule, LayerSchedule, Run, Step, forward
from dyslctl.types import KeysValues, LayerState, Observation, TokenKind

Observe = Callable[..., Observation]


@pytest.fixture(scope="module")
def generating(tmp_path_factory: pytest.TempPathFactory) -> OpenVLA:
    path = tmp_path_factory.mktemp("beside") / "checkpoint"
    write_random_checkpoint(path, published_config("tiny", "tokens"))
    return OpenVLA.load(path)


class Beside(LayerSchedule):
    """Every layer by ``run_layer_beside``; from layer 1 on without some patches, whose keys and values are lent."""

    def __init__(self, backbone: OpenVLAOFT | OpenVLA, lent: dict[int, KeysValues] | None = None) -> None:
        self.backbone, self.lent = backbone, lent or {}
        self.kept: dict[int, KeysValues] = {}

    def before(self, layer: int, state: LayerState) -> Step:
        if self.lent and layer == 1:
            gone = (state.kinds[0] >= TokenKind.VISION) & (state.positions[0] % 2 == 0)
            state.select((~gone).nonzero().flatten().expand(len(state.kinds), -1))
        return Run(by=self.run)

    def run(self, layer: int, state: LayerState) -> torch.Tensor:
        lent = self.lent.get(layer)
        if lent is not None:
            lent = lent.where(~torch.isin(lent.positions[0], state.positions[0]))
        hidden, self.kept[layer] = self.backbone.run_layer_beside(layer, state, lent if layer >= 1 else None)
        return hidden


def check(backbone: OpenVLAOFT | OpenVLA, seen: list[Observation]) -> None:
    inputs = backbone.encode(seen)
    full, whole, few = (LayerState.of(inputs) for _ in range(3))
    forward(backbone, full, FullSchedule())
    keeping = Beside(backbone)
    forward(backbone, whole, keeping)
    assert torch.equal(whole.hidden, full.hidden), "without others it is the layer, bit for bit"
    trace = forward(backbone, few, Beside(backbone, keeping.kept))
    assert trace.tokens[1] < trace.tokens[0]
    expected = full.hidden.gather(1, few.positions[..., None].expand(-1, -1, full.hidden.shape[-1]))
    real = torch.ones_like(few.kinds, dtype=torch.bool) if few.mask is None else few.mask
    torch.testing.assert_close(few.hidden[real], expected[real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(backbone.predict(few), backbone.predict(full), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_bidirectional(backbone: OpenVLAOFT, observe: Observe, padded: bool) -> None:
    check(backbone, [observe(), observe("lift it", 1)] if padded else [observe()])


@pytest.mark.parametrize("padded", [False, True])
def test_causal_and_generating(generating: OpenVLA, observe: Observe, padded: bool) -> None:
    check(generating, [observe(INSTRUCTIONS[0]), observe("lift it", 1)] if padded else [observe(INSTRUCTIONS[0])])


def test_it_matters_what_is_lent(backbone: OpenVLAOFT, observe: Observe) -> None:
    """Of another picture: the action is another."""
    inputs, other = backbone.encode([observe()]), backbone.encode([observe(seed=3)])
    keeping = Beside(backbone)
    forward(backbone, LayerState.of(other), keeping)
    few, full = LayerState.of(inputs), LayerState.of(inputs)
    forward(backbone, few, Beside(backbone, keeping.kept))
    forward(backbone, full, FullSchedule())
    assert float((backbone.predict(few) - backbone.predict(full)).abs().max()) > 1e-3
