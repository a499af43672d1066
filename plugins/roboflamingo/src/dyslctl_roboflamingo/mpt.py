"""MPT's decoder block: MPT-1B's, with LayerNorm on queries and keys, and MPT-7B's, without.

``transformers`` has the latter alone. Both are here in the order of operations of the original code, so that they give
its bits: those of ``transformers``' ``MptBlock`` where there is no such norm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dyslctl_roboflamingo.config import LanguageModel

ALIBI_MAX = 8


def layer_norm(width: int) -> nn.LayerNorm:
    """Without bias, as nothing in MPT has one."""
    return nn.LayerNorm(width, bias=False)


def attention_bias(positions: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """ALiBi (Press et al. 2022), and the mask: what is added to the scores.

        slope_h (p_key - p_max),   slope_h = 2^(-8 h / heads),  h = 1 .. heads

    A row's softmax does not change if all of the row moves, so MPT adds what depends on the key alone. Later tokens and
    padding get the lowest number there is.

    Args:
        positions: ``[B, T]`` int64, original: tokens in between may be gone.
        mask: ``[B, T]`` bool, true for real tokens, or ``None``.
        heads: Of the attention.

    Returns:
        ``[B, heads, T, T]`` float32.
    """
    exponents = torch.arange(1, heads + 1, device=positions.device).float() * (ALIBI_MAX / heads)
    slopes = 1.0 / torch.pow(2, exponents)
    bias = (positions - positions.amax())[:, None, None, :] * slopes[:, None, None]
    seen = positions[:, None, :] <= positions[:, :, None]
    seen = seen if mask is None else seen & mask[:, None, :]
    return bias.masked_fill(~seen[:, None], torch.finfo(torch.float32).min)


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, config: LanguageModel) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.Wqkv = nn.Linear(width, 3 * width, bias=False)
        self.q_ln = layer_norm(width) if config.qk_norm else nn.Identity()
        self.k_ln = layer_norm(width) if config.qk_norm else nn.Identity()
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """``[B, T, H]`` and the bias of :func:`attention_bias` -> ``[B, T, H]``."""
        query, key, value = self.Wqkv(hidden).chunk(3, -1)
        parts = (self.q_ln(query), self.k_ln(key), value)
        q, k, v = (part.view(*part.shape[:2], self.heads, -1).transpose(1, 2) for part in parts)
        scores = (q @ k.transpose(-1, -2)) * (1 / q.shape[-1] ** 0.5)
        weights = (scores + bias).softmax(-1).to(v.dtype)
        out: Tensor = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """``W2 gelu(W1 x)``, exact."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(width, 4 * width, bias=False)
        self.down_proj = nn.Linear(4 * width, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """``[B, T, H]`` -> ``[B, T, H]``."""
        out: Tensor = self.down_proj(nn.functional.gelu(self.up_proj(hidden)))
        return out


class MPTBlock(nn.Module):
    """``x + attn(LN(x))``, then ``x + ffn(LN(x))``."""

    def __init__(self, config: LanguageModel) -> None:
        super().__init__()
        self.norm_1 = layer_norm(config.width)
        self.attn = Attention(config)
        self.norm_2 = layer_norm(config.width)
        self.ffn = FeedForward(config.width)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """``[B, T, H]`` -> ``[B, T, H]``."""
        hidden = self.attn(self.norm_1(hidden), bias) + hidden
        out: Tensor = self.ffn(self.norm_2(hidden)) + hidden
        return out
