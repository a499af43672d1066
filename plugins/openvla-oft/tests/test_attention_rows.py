"""A few rows of the attention map, against the whole map of ``transformers`` with its softmax written out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dyslctl_openvla_oft import OpenVLA, OpenVLAOFT
from dyslctl_openvla_oft.config import OFTConfig
from dyslctl_openvla_oft.models import new_model
from dyslctl_openvla_oft.random_checkpoint import INSTRUCTIONS, published_config, random_statistics
from dyslctl_openvla_oft.tokenizer import build_tokenizer
from dyslctl_openvla_oft.writer import write_checkpoint
from torch import Tensor
from transformers import LlamaConfig, LlamaModel

from dyslctl.engine import FullSchedule, forward
from dyslctl.errors import ConfigError
from dyslctl.runtime.packed import with_backend
from dyslctl.types import LayerState, Observation, TokenKind

Observe = Callable[..., Observation]


@pytest.fixture(scope="module")
def generating(tmp_path_factory: pytest.TempPathFactory) -> OpenVLA:
    """A causal model, four heads for two of keys."""
    values = published_config("tiny", "tokens").model_dump()
    values["text_config"] |= {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = OFTConfig.model_validate(values)
    model, generator = new_model(config), torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        center = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.data = center + 0.2 * torch.randn(parameter.shape, generator=generator)
    tokenizer = build_tokenizer(INSTRUCTIONS, published_ids=True)
    path = tmp_path_factory.mktemp("causal") / "checkpoint"
    write_checkpoint(path, model, tokenizer, {"a": random_statistics(config.oft, 0)}, 1, dtype=torch.float32)
    return OpenVLA.load(path)


def maps(backbone: OpenVLAOFT | OpenVLA, state: LayerState, seen: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of each layer its input and its whole map ``[B, heads, T, T]``, by the stock model.

    ``seen``: ``[B, T, T]`` bool, which keys each query sees.
    """
    stock = LlamaModel(LlamaConfig(**backbone.checkpoint.config.text_config, attn_implementation="eager"))
    stock.load_state_dict(backbone.model.language_model.state_dict(), strict=True)
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
    with torch.no_grad():
        found = stock.eval()(
            inputs_embeds=state.hidden,
            position_ids=state.positions,
            attention_mask=mask,
            use_cache=False,
            output_attentions=True,
            output_hidden_states=True,
        )
    return list(zip(found.hidden_states[:-1], found.attentions, strict=True))


def check(backbone: OpenVLAOFT | OpenVLA, state: LayerState, causal: bool) -> None:
    batch, tokens = state.kinds.shape
    seen = torch.ones(batch, tokens, tokens, dtype=torch.bool)
    seen = seen.tril() if causal else seen
    seen = seen if state.mask is None else seen & state.mask[:, None]
    queries = torch.tensor([[tokens // 2, 0, tokens - 5], [3, tokens // 2 + 1, 6]])[:batch]
    before = state.hidden.clone()
    for layer, (hidden, whole) in enumerate(maps(backbone, state, seen)):
        at = LayerState(hidden, state.positions, state.kinds, state.mask)
        with torch.no_grad():
            rows = backbone.attention_rows(layer, at, queries)
            output, beside = backbone.run_layer_with_rows(layer, at.fork(), queries)
            assert torch.equal(beside, rows) and torch.equal(output, backbone.run_layer(layer, at.fork()))
        expected = whole.gather(2, queries[:, None, :, None].expand(-1, whole.shape[1], -1, tokens))
        assert rows.dtype == torch.float32 and rows.shape == (batch, whole.shape[1], 3, tokens)
        torch.testing.assert_close(rows, expected, atol=1e-6, rtol=1e-5)
        assert float(rows.std()) > 1e-3, "rows that are flat would equal anything"
    assert torch.equal(state.hidden, before)


def pruned(state: LayerState) -> LayerState:
    """Without every other patch: positions are no longer 0, 1, 2, ..."""
    patches = (state.kinds[0] >= TokenKind.VISION).nonzero().flatten()[::2].tolist()
    keep = torch.tensor([token for token in range(state.kinds.shape[1]) if token not in patches])
    state.select(keep.expand(len(state.kinds), -1))
    return state


@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_bidirectional_rows(backbone: OpenVLAOFT, observe: Observe, padded: bool, gathered: bool) -> None:
    seen = [observe(), observe("lift it", 1)] if padded else [observe()]
    state = LayerState.of(backbone.encode(seen))
    assert (state.mask is not None) == padded
    check(backbone, pruned(state) if gathered else state, causal=False)


@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_causal_rows_of_grouped_heads(generating: OpenVLA, observe: Observe, padded: bool, gathered: bool) -> None:
    seen = [observe(INSTRUCTIONS[0]), observe("lift it", 1)] if padded else [observe(INSTRUCTIONS[0])]
    state = LayerState.of(generating.encode(seen))
    assert (state.mask is not None) == padded
    check(generating, pruned(state) if gathered else state, causal=True)


def test_looking_changes_nothing(backbone: OpenVLAOFT, observe: Observe) -> None:
    """The pass that was looked at gives the bits of one that was not."""

    class Looking(FullSchedule):
        def before(self, layer: int, state: LayerState):  # type: ignore[no-untyped-def]
            backbone.attention_rows(layer, state, torch.tensor([[0, 9]]))
            return super().before(layer, state)

    inputs = backbone.encode([observe()])
    alone, looked_at = LayerState.of(inputs), LayerState.of(inputs)
    forward(backbone, alone, FullSchedule())
    forward(backbone, looked_at, Looking())
    assert torch.equal(alone.hidden, looked_at.hidden)


def test_bfloat16_rows_are_float32(folder: Path, observe: Observe) -> None:
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        backbone = OpenVLAOFT.load(folder, dtype=dtype)
        rows.append(backbone.attention_rows(0, LayerState.of(backbone.encode([observe()])), torch.tensor([[10]])))
    assert rows[1].dtype == torch.float32
    torch.testing.assert_close(rows[1].sum(-1), torch.ones(1, 2, 1))
    torch.testing.assert_close(rows[0], rows[1], atol=0.02, rtol=0.1)


def test_packed_layers_show_none(folder: Path, observe: Observe) -> None:
    packed = with_backend(OpenVLAOFT.load(folder), "packed")
    with pytest.raises(ConfigError, match="shows no attention to prune tokens by") as caught:
        packed.attention_rows(0, LayerState.of(packed.encode([observe()])), torch.tensor([[0]]))
    assert "model.backend=eager" in str(caught.value.hint)
