"""Tokens that skip are neither queried nor sent through the MLP, and are attended to all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.baselines.flexidepth import flexidepth_modules, squared_layers
from dyslctl.baselines.flexidepth_tokens import (
    FlexiDepthTokensPolicy,
    TokenMix,
    TokenRouting,
    require_token_skips,
)
from dyslctl.dysl.distillation import Stage2Settings, stage2_loss
from dyslctl.dysl.skip_modules import SkipModules, SkipSizes
from dyslctl.engine import forward
from dyslctl.errors import ConfigError
from dyslctl.jobs.lockstep import Coroutine, run_together
from dyslctl.policy import full_policy
from dyslctl.runtime.packed import PACKED, with_backend
from dyslctl.types import KeysValues, LayerInputs, LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

TOKENS = 15
WHOLE, PADDED = "go and reach red", "reach red"
"""The first fills its four words, the second leaves two of them to padding."""


@pytest.fixture
def backbone(tiny_backbone: type[TinyBackbone]) -> TinyBackbone:
    return tiny_backbone()


@pytest.fixture
def modules() -> SkipModules:
    """For 8 layers; routers that tell tokens apart, adapters that change something."""
    torch.manual_seed(0)
    made = flexidepth_modules(8, SkipSizes(16, 4, 16))
    for layer in range(8):
        torch.nn.init.normal_(made.adapter(layer).up.weight, std=0.5)
        for parameter in made.controller(layer).parameters():
            torch.nn.init.normal_(parameter)
    return made.eval()


def observation(number: int, words: str = WHOLE) -> Observation:
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Observation({"agent": image}, words, rng.random(2, np.float32))


def by_where(backbone: TinyBackbone, modules: SkipModules, inputs: LayerInputs, tau: float) -> tuple[Tensor, list[int]]:
    """The same by running every layer for all tokens, and taking of each token the one way or the other."""
    state, counts = LayerState.of(inputs), list[int]()
    real = torch.ones_like(inputs.kinds, dtype=torch.bool) if inputs.mask is None else inputs.mask
    for layer in range(8):
        skips = (modules.controller(layer)(state.hidden).sigmoid() > tau) & real
        both = modules.adapter(layer)(state.hidden), backbone.run_layer(layer, state)
        counts.append(int((real & ~skips).sum()))
        state.hidden = torch.where(skips[..., None], *both)
    return state.hidden, counts


@pytest.mark.parametrize("words", [WHOLE, PADDED])
@torch.no_grad()
def test_gathering_is_masking(backbone: TinyBackbone, modules: SkipModules, words: str) -> None:
    for number in range(6):
        inputs = backbone.encode([observation(number, words)])
        state = LayerState.of(inputs)
        trace = forward(backbone, state, TokenRouting(backbone, modules, 0.5))
        expected, counts = by_where(backbone, modules, inputs, 0.5)
        assert len(set(counts)) > 3, "layers that few and that many tokens run"
        real = slice(None) if inputs.mask is None else inputs.mask
        torch.testing.assert_close(state.hidden[real], expected[real], atol=1e-5, rtol=0)
        assert trace.layers_run == [layer for layer in range(8) if counts[layer]]
        assert trace.tokens == [count + state.padding for count in counts if count]


def test_what_is_reported(backbone: TinyBackbone, modules: SkipModules) -> None:
    """Padding is no token, and a layer is executed if any token runs it."""
    policy = FlexiDepthTokensPolicy(backbone, modules, 0.5, 4)
    for words in (WHOLE, PADDED):
        policy.select_action(observation(0, words))
        _, counts = by_where(backbone, modules, backbone.encode([observation(0, words)]), 0.5)
        assert policy.last.tokens == tuple(count for count in counts if count)
        assert policy.last.layers == tuple(layer for layer in range(8) if counts[layer])
        assert [each.layer for each in policy.last.consulted] == list(range(8))


def test_the_answer_of_a_router_is_the_mean_over_the_real_tokens(backbone: TinyBackbone, modules: SkipModules) -> None:
    policy = FlexiDepthTokensPolicy(backbone, modules, 1.0, 4)
    policy.select_action(observation(0, PADDED))
    inputs = backbone.encode([observation(0, PADDED)])
    assert inputs.mask is not None
    expected = modules.controller(0)(inputs.hidden).sigmoid()[inputs.mask].mean().item()
    assert policy.last.consulted[0].answer == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("words", [WHOLE, PADDED])
def test_with_every_token_kept_it_is_the_full_model_bit_for_bit(
    backbone: TinyBackbone, modules: SkipModules, words: str
) -> None:
    policy, full = FlexiDepthTokensPolicy(backbone, modules, 1.0, 4), full_policy(backbone, 4)
    for number in range(4):
        seen = observation(number, words)
        assert np.array_equal(policy.select_action(seen).actions, full.select_action(seen).actions)
        assert policy.last.tokens == full.last.tokens and policy.last.layers == tuple(range(8))


@pytest.mark.parametrize("words", [WHOLE, PADDED])
def test_with_every_token_skipping_no_layer_does_anything(
    backbone: TinyBackbone, modules: SkipModules, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = FlexiDepthTokensPolicy(backbone, modules, 0.0, 4)

    def forbidden(*_: object) -> Any:
        raise AssertionError("a layer worked")

    for layer in backbone.layers:
        for part in layer.children():
            monkeypatch.setattr(part, "forward", forbidden)
    chunk = policy.select_action(observation(0, words))
    assert policy.last.layers == () and policy.last.tokens == ()
    assert policy.last.jumps == tuple((layer, layer + 1) for layer in range(8))
    state = LayerState.of(backbone.encode([observation(0, words)]))
    with torch.no_grad():
        for layer in range(8):
            state.hidden = modules.adapter(layer)(state.hidden)
        (expected,) = backbone.decode_action(backbone.predict(state))
    np.testing.assert_allclose(chunk.actions, expected.actions, atol=1e-5)


def test_only_the_tokens_that_run_are_queried_and_go_through_the_mlp(
    backbone: TinyBackbone, modules: SkipModules, monkeypatch: pytest.MonkeyPatch
) -> None:
    queried, policy = list[int](), FlexiDepthTokensPolicy(backbone, modules, 0.5, 4)
    for one in backbone.layers:
        out, mlp = one.get_submodule("attention_out"), one.get_submodule("mlp")
        for part in (out, mlp):
            part.register_forward_pre_hook(lambda _, given: queried.append(given[0].shape[1]))
    policy.select_action(observation(0))
    assert queried == [count for count in policy.last.tokens for _ in range(2)]
    assert min(queried) < TOKENS


def test_others_attend_to_the_tokens_that_skip(
    backbone: TinyBackbone, modules: SkipModules, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = backbone.encode([observation(0)])
    state, deaf = LayerState.of(inputs), LayerState.of(inputs)
    with torch.no_grad():
        forward(backbone, state, TokenRouting(backbone, modules, 0.5))
        beside = backbone.run_layer_beside

        def alone(layer: int, state: LayerState, lent: KeysValues) -> tuple[Tensor, KeysValues]:
            return beside(layer, state, None)

        monkeypatch.setattr(backbone, "run_layer_beside", alone)
        forward(backbone, deaf, TokenRouting(backbone, modules, 0.5))
    assert float((state.hidden - deaf.hidden).abs().max()) > 1e-2


def test_a_pass_leaves_its_inputs_alone(backbone: TinyBackbone, modules: SkipModules) -> None:
    inputs = backbone.encode([observation(0)])
    before = inputs.hidden.clone()
    with torch.no_grad():
        forward(backbone, LayerState.of(inputs), TokenRouting(backbone, modules, 0.5))
    assert torch.equal(inputs.hidden, before)


def test_side_by_side_as_if_alone(backbone: TinyBackbone, modules: SkipModules) -> None:
    def lane(policy: FlexiDepthTokensPolicy, first: int) -> Coroutine[list[Any]]:
        policy.reset()
        seen = []
        for number in (first, first + 1):
            chunk = yield from policy.plan(observation(number))
            seen.append((number, chunk, policy.last.tokens))
        return seen

    policy = FlexiDepthTokensPolicy(backbone, modules, 0.5, 4)
    begin: list[Callable[[int], Any]] = [partial(lane, policy.twin()) for _ in range(3)]
    for together in run_together(begin, [0, 10, 20, 30]):
        for number, chunk, tokens in together:
            alone = policy.select_action(observation(number))
            np.testing.assert_allclose(chunk.actions, alone.actions, atol=1e-5)
            assert tokens == policy.last.tokens


def test_the_price_by_hand() -> None:
    """One sample of two tokens, two layers: the first runs 0.75 + 0.5 of them, the second none and one."""
    gates = {0: torch.tensor([[0.25, 1.0]]), 1: torch.tensor([[0.5, 0.0]])}
    assert squared_layers(gates, flexidepth_modules(2, SkipSizes(16, 4, 16)).partition).item() == 1.28125


@torch.no_grad()
def test_the_two_ways_of_each_token_are_mixed_by_its_own_gate(backbone: TinyBackbone, modules: SkipModules) -> None:
    inputs = backbone.encode([observation(0), observation(1)])
    state, expected = LayerState.of(inputs), LayerState.of(inputs)
    mix = TokenMix(modules, range(8))
    forward(backbone, state, mix)
    for layer in range(8):
        gate = modules.controller(layer)(expected.hidden).sigmoid()
        torch.testing.assert_close(mix.gates[layer], gate, atol=1e-5, rtol=0)
        skipped, ran = modules.adapter(layer)(expected.hidden), backbone.run_layer(layer, expected)
        expected.hidden = gate[..., None] * skipped + (1 - gate[..., None]) * ran
    torch.testing.assert_close(state.hidden, expected.hidden, atol=1e-5, rtol=0)
    assert mix.gates[0].shape == (2, TOKENS) and float(mix.gates[0].std()) > 0.1


@torch.no_grad()
def test_hard_mixing_is_what_inference_does(backbone: TinyBackbone, modules: SkipModules) -> None:
    inputs = backbone.encode([observation(0)])
    mixed, routed = LayerState.of(inputs), LayerState.of(inputs)
    forward(backbone, mixed, TokenMix(modules, range(8), hard=True))
    forward(backbone, routed, TokenRouting(backbone, modules, 0.5))
    torch.testing.assert_close(mixed.hidden, routed.hidden, atol=1e-5, rtol=0)


@pytest.mark.parametrize("hard", [False, True])
def test_gradients_reach_every_router_and_adapter_and_nothing_else(
    backbone: TinyBackbone, modules: SkipModules, hard: bool
) -> None:
    inputs, target = backbone.encode([observation(number) for number in range(4)]), torch.zeros(4, 4, 3)
    settings = Stage2Settings(penalty_weight=0.5, hard=hard, recompute=hard)
    stage2_loss(backbone, modules, inputs, target, range(8), settings, squared_layers, TokenMix).total.backward()
    learning = modules.controllers if hard else modules  # a hard gate that keeps hides its adapter
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in learning.parameters())
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_padding_has_no_say_in_training(backbone: TinyBackbone, modules: SkipModules) -> None:
    state = LayerState.of(backbone.encode([observation(0, PADDED)]))
    with pytest.raises(ValueError, match="without padding"):
        forward(backbone, state, TokenMix(modules, range(8)))


def test_what_cannot_is_refused_at_once(tiny_backbone: type[TinyBackbone], modules: SkipModules) -> None:
    class Whole(tiny_backbone):  # type: ignore[misc, valid-type]
        keys_values = Backbone.keys_values

    with pytest.raises(ConfigError, match="Whole makes no keys and values without running the layer"):
        FlexiDepthTokensPolicy(Whole(), modules, 0.5, 4)

    class Alone(tiny_backbone):  # type: ignore[misc, valid-type]
        run_layer_beside = Backbone.run_layer_beside

    with pytest.raises(ConfigError, match="Alone keeps no keys and values to reuse"):
        FlexiDepthTokensPolicy(Alone(), modules, 0.5, 4)
    with pytest.raises(ConfigError, match="PackedBackbone makes no keys") as caught:
        FlexiDepthTokensPolicy(with_backend(tiny_backbone(), PACKED), modules, 0.5, 4)
    assert caught.value.hint is not None and "model.backend=eager" in caught.value.hint
    generating = tiny_backbone()
    generating.spec = replace(generating.spec, generates=True)
    with pytest.raises(ConfigError, match="the head of TinyBackbone generates"):
        require_token_skips(generating)
