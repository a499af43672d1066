from __future__ import annotations

import pytest
import torch

from dyslctl.dysl.partition import LayerPartition
from dyslctl.dysl.skip_modules import (
    PRESETS,
    Adapter,
    Pool,
    SkipModules,
    SkippingController,
    SkipSizes,
    TokenPool,
    dysl_sizes,
)
from dyslctl.errors import ConfigError
from dyslctl.runtime.linear import best
from dyslctl.types import LayerInputs, LayerState, TokenKind


@pytest.mark.parametrize(
    ("preset", "total"),
    [
        ("dysl_rf3b", 13_895_859),
        ("dysl_oft7b", 226_334_394),
        ("flexi_rf3b", 19_127_064),
        ("flexi_oft7b", 390_250_272),
    ],
)
def test_presets_have_the_published_parameter_counts(preset: str, total: int) -> None:
    sizes, layers = PRESETS[preset].sizes, PRESETS[preset].dynamic_layers
    with torch.device("meta"):
        modules = SkipModules(LayerPartition(layers + 1, (layers,)), sizes)
    assert sum(p.numel() for p in modules.parameters()) == total
    assert sizes.parameters(layers) == total


def test_presets_fit_the_papers_static_ratio() -> None:
    assert PRESETS["dysl_rf3b"].dynamic_layers == 24 - 5
    assert PRESETS["dysl_oft7b"].dynamic_layers == 32 - 6


def test_mini_sizes_follow_the_hidden_size() -> None:
    assert SkipSizes.mini(128) == SkipSizes(128, 32, 32)
    assert SkipSizes.mini(16) == SkipSizes(16, 4, 16)


@pytest.mark.parametrize(
    ("hidden_size", "sizes"),
    [(2048, PRESETS["dysl_rf3b"].sizes), (4096, PRESETS["dysl_oft7b"].sizes), (512, SkipSizes.mini(512))],
)
def test_a_published_width_gets_the_published_sizes(hidden_size: int, sizes: SkipSizes) -> None:
    assert dysl_sizes(hidden_size) == sizes


def test_sizes_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        SkipSizes(16, 0, 4)


def test_an_untrained_adapter_is_the_identity() -> None:
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Adapter(8, 2)(x), x)


def test_the_adapter_formula() -> None:
    torch.manual_seed(0)
    adapter, x = Adapter(8, 2), torch.randn(2, 3, 8)
    torch.nn.init.normal_(adapter.up.weight)
    torch.nn.init.normal_(adapter.up.bias)
    adapter.scale.fill_(2.5)
    inner = adapter.down(adapter.norm(x))
    update = (inner * inner.sigmoid()) @ adapter.up.weight.T + adapter.up.bias
    torch.testing.assert_close(adapter(x), x + 2.5 * update)


def test_the_scale_is_saved_but_not_trained() -> None:
    adapter = Adapter(8, 2)
    assert "scale" in adapter.state_dict()
    assert "scale" not in dict(adapter.named_parameters())


def test_a_new_controller_prefers_to_keep() -> None:
    torch.manual_seed(0)
    logits = SkippingController(8, 4)(torch.randn(64, 8))
    assert logits.shape == (64,)
    assert abs(logits.mean().item() + 2) < 0.7


def test_every_dynamic_layer_has_its_own_modules(partition: LayerPartition, modules: SkipModules) -> None:
    assert list(modules.adapters) == list(modules.controllers) == [str(i) for i in partition.dynamic_layers]
    assert modules.adapter(4) is not modules.adapter(5)


def state_of(mask: torch.Tensor | None) -> LayerState:
    kinds = torch.tensor([[TokenKind.BOS, 16, 17, TokenKind.PROPRIO, TokenKind.TEXT, TokenKind.ACTION]] * 2)
    hidden = torch.arange(6.0).repeat(2, 1)[..., None].expand(2, 6, 3) * torch.tensor([1.0, 10.0])[:, None, None]
    return LayerState.of(LayerInputs(hidden, torch.zeros_like(kinds), kinds, mask))


MASK = torch.tensor([[True] * 6, [True, True, True, True, False, False]])


@pytest.mark.parametrize(
    ("pool", "unmasked", "masked"),
    [
        ("query_tokens", [4, 40], [4, 30]),
        ("mean", [2.5, 25], [2.5, 15]),
        ("last", [5, 50], [5, 30]),
        ("max", [5, 50], [5, 30]),
    ],
)
def test_pools(pool: Pool, unmasked: list[float], masked: list[float]) -> None:
    for mask, expected in ((None, unmasked), (MASK, masked)):
        state = state_of(mask)
        pooled = TokenPool.of(pool, state)(state.hidden)
        torch.testing.assert_close(pooled, torch.tensor(expected, dtype=torch.float32)[:, None].expand(2, 3))


@pytest.mark.parametrize("pool", ["query_tokens", "mean", "last", "max"])
def test_pools_keep_the_dtype(pool: Pool) -> None:
    state = state_of(MASK)
    state.hidden = state.hidden.bfloat16()
    assert TokenPool.of(pool, state)(state.hidden).dtype == torch.bfloat16


def test_only_what_lies_between_its_tokens_is_read() -> None:
    """Proprio, text and action: what stands outside may be anything, and a sample without any reads nothing."""
    state = state_of(None)
    state.hidden = state.hidden.clone()
    read = (state.kinds >= TokenKind.PROPRIO) & (state.kinds <= TokenKind.ACTION)
    expected = torch.stack([row[members].mean(0) for row, members in zip(state.hidden, read, strict=True)])
    first, last = read.any(0).nonzero()[0], read.any(0).nonzero()[-1]
    state.hidden[:, :first] = state.hidden[:, last + 1 :] = torch.nan
    torch.testing.assert_close(TokenPool.of("query_tokens", state)(state.hidden), expected)
    nobody = TokenPool(torch.zeros(2, 6, dtype=torch.bool))
    assert torch.equal(nobody(torch.ones(2, 6, 3)), torch.zeros(2, 3))


def test_a_mean_of_all_is_the_product_with_equal_weights() -> None:
    hidden = torch.randn(2, 6, 3)
    every = TokenPool(torch.ones(2, 6, dtype=torch.bool))
    torch.testing.assert_close(every(hidden), hidden.mean(1))
    some = torch.tensor([[True] * 5 + [False], [True] * 6])
    torch.testing.assert_close(TokenPool(some)(hidden)[0], hidden[0, :5].mean(0))


def test_query_tokens_do_not_see_pruned_vision_tokens() -> None:
    state = state_of(None)
    before = TokenPool.of("query_tokens", state)(state.hidden)
    state.select(torch.tensor([[0, 2, 3, 4, 5]] * 2))
    torch.testing.assert_close(TokenPool.of("query_tokens", state)(state.hidden), before)


def test_bound_modules_are_the_same_functions_of_the_weights() -> None:
    torch.manual_seed(0)
    adapter, controller = Adapter(16, 4), SkippingController(16, 8)
    with torch.no_grad():
        for parameter in [*adapter.parameters(), *controller.parameters()]:
            parameter.copy_(torch.randn_like(parameter))
        adapter.scale.fill_(3.0)
        hidden, pooled = torch.randn(2, 5, 16), torch.randn(2, 16)
        torch.testing.assert_close(adapter.bind()(hidden), adapter(hidden), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(adapter.bind(best(torch.float32))(hidden), adapter(hidden), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(controller.bind()(pooled), controller(pooled), rtol=1e-5, atol=1e-5)
