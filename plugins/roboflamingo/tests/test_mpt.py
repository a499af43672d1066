from __future__ import annotations

import math

import pytest
import torch
from dyslctl_roboflamingo.config import LanguageModel
from dyslctl_roboflamingo.mpt import Attention, MPTBlock, attention_bias
from torch import Tensor
from torch.nn import functional as F
from transformers import MptConfig
from transformers.models.mpt.modeling_mpt import MptBlock as TransformersBlock
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

LOWEST = torch.finfo(torch.float32).min


def randomised(config: LanguageModel) -> MPTBlock:
    block, generator = MPTBlock(config), torch.Generator().manual_seed(0)
    for name, parameter in block.named_parameters():
        center = 1.0 if parameter.ndim == 1 else 0.0
        parameter.data = center + 0.3 * torch.randn(parameter.shape, generator=generator)
        assert name.endswith("weight"), "nothing in MPT has a bias"
    return block.eval().requires_grad_(False)


def positions(tokens: int, batch: int = 1) -> Tensor:
    return torch.arange(tokens).expand(batch, -1)


def test_alibi_by_hand() -> None:
    """Four heads: slopes 2^-2, 2^-4, 2^-6, 2^-8. The last key gets 0, each one before it a slope less."""
    bias = attention_bias(positions(3), None, 4)
    assert bias.shape == (1, 4, 3, 3)
    assert bias[0, 0].tolist() == [[-0.5, LOWEST, LOWEST], [-0.5, -0.25, LOWEST], [-0.5, -0.25, 0.0]]
    assert bias[0, :, 2, 0].tolist() == [-2 * 2.0**-k for k in (2, 4, 6, 8)]


def test_alibi_goes_by_original_positions() -> None:
    """With the middle token gone, the distance of the others stays."""
    bias = attention_bias(torch.tensor([[0, 2]]), None, 4)
    assert bias[0, 0].tolist() == [[-0.5, LOWEST], [-0.5, 0.0]]


def test_padding_is_not_attended_to() -> None:
    block, hidden = randomised(LanguageModel(width=16, heads=2)), torch.randn(1, 4, 16)
    mask = torch.tensor([[True, True, True, False]])
    alone = block(hidden[:, :3], attention_bias(positions(3), None, 2))
    padded = block(hidden, attention_bias(positions(4), mask, 2))
    torch.testing.assert_close(padded[:, :3], alone, atol=1e-5, rtol=1e-5)


def test_no_token_sees_a_later_one() -> None:
    hidden = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0))
    block, bias = randomised(LanguageModel(width=16, heads=2)), attention_bias(positions(4), None, 2)
    changed = hidden.clone()
    changed[:, 2] *= -1  # a shift would be lost in the norm
    moved = (block(changed, bias) != block(hidden, bias)).any(-1)[0].tolist()
    assert moved == [False, False, True, True]


def test_queries_and_keys_are_normed_before_they_are_split() -> None:
    """The norm of MPT-1B goes over the whole width, not over each head."""
    attention = randomised(LanguageModel(width=8, heads=2)).attn
    hidden = torch.randn(1, 3, 8)
    query, key, value = (hidden @ attention.Wqkv.weight.T).split(8, -1)

    def normed(x: Tensor, weight: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * weight

    query, key = normed(query, attention.q_ln.weight), normed(key, attention.k_ln.weight)
    mixed = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = query[..., head] @ key[..., head].mT / math.sqrt(4)
        scores = scores + attention_bias(positions(3), None, 2)[:, head.start // 4]
        mixed.append(scores.softmax(-1) @ value[..., head])
    expected = torch.cat(mixed, -1) @ attention.out_proj.weight.T
    torch.testing.assert_close(attention(hidden, attention_bias(positions(3), None, 2)), expected, atol=1e-5, rtol=1e-5)


def test_only_mpt_1b_has_such_norms() -> None:
    names = {n for n, _ in Attention(LanguageModel(width=8, heads=2, qk_norm=False)).named_parameters()}
    assert names == {"Wqkv.weight", "out_proj.weight"}


def test_published_size_of_mpt_1b() -> None:
    """Model card and released code: 24 blocks, their embedding of 50432 rows, and the final norm."""
    with torch.device("meta"):
        block = sum(p.numel() for p in MPTBlock(LanguageModel()).parameters())
    assert 24 * block + 50_432 * 2048 + 2048 == 1_311_442_944


@pytest.mark.parametrize("padding", [0, 2])
def test_mpt_7b_is_transformers_bit_for_bit(padding: int) -> None:
    config = LanguageModel(width=32, heads=4, qk_norm=False)
    ours, stock = randomised(config), TransformersBlock(MptConfig(d_model=32, n_heads=4)).eval()
    stock.load_state_dict(ours.state_dict())
    hidden, tokens = torch.randn(2, 7, 32), 7
    real = torch.arange(tokens) < tokens - padding
    hidden_from = torch.ones(tokens, tokens, dtype=torch.bool).triu(1) | ~real
    with torch.no_grad():
        expected, _ = stock(hidden, build_mpt_alibi_tensor(4, tokens), hidden_from[None, None])
    found = ours(hidden, attention_bias(positions(tokens, 2), real.expand(2, -1), 4))
    assert torch.equal(found[:, real], expected[:, real])


def test_gelu_is_exact() -> None:
    ffn = randomised(LanguageModel(width=4, heads=2)).ffn
    x = torch.randn(1, 2, 4)
    inner = x @ ffn.up_proj.weight.T
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    torch.testing.assert_close(ffn(x), F.linear(inner, ffn.down_proj.weight))
