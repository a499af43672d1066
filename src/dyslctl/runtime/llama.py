"""One LLaMA decoder layer for inference: fused matrices, no cache, no hooks, no keyword arguments.

    h = x + W_o attention(rotate(W_qk norm_1(x)), W_v norm_1(x))
    y = h + W_down (silu(W_gate norm_2(h)) * W_up norm_2(h))

``W_q, W_k, W_v`` are one matrix here and so are ``W_gate, W_up``: two products where upstream does five, on the same
rows, so that the sums are the same. What is fresh is written in place: large temporaries cost more than the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dyslctl.backbone import PackLinear


@dataclass(frozen=True)
class LlamaWeights:
    """Weights of one layer, ``[out, in]`` as published; no biases.

    Attributes:
        q: ``[heads * head_dim, H]``.
        k: ``[kv_heads * head_dim, H]``.
        v: As ``k``.
        o: ``[H, heads * head_dim]``.
        gate: ``[I, H]``.
        up: ``[I, H]``.
        down: ``[H, I]``.
        attention_norm: ``[H]``, before attention.
        mlp_norm: ``[H]``, before the MLP.
        head_dim: Width of a head.
        eps: Added to the mean square in both norms.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor
    attention_norm: Tensor
    mlp_norm: Tensor
    head_dim: int
    eps: float


@dataclass(frozen=True)
class LlamaTables:
    """What every layer derives from positions and padding, once a pass: kept in ``LayerState.context``.

    Attributes:
        cos: ``[B, 1, T, head_dim / 2]``, of the angles of the first half; the second half has the same.
        sin: Likewise.
        mask: ``[B, 1, T, T]`` added to the scores, or ``None``: every token sees every other.
    """

    cos: Tensor
    sin: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, rotary: tuple[Tensor, Tensor], mask: Tensor | None) -> LlamaTables:
        """From cosines and sines ``[B, T, head_dim]``, whose halves are equal."""
        cos, sin = (table[:, None, :, : table.shape[-1] // 2].contiguous() for table in rotary)
        return cls(cos, sin, mask)


class LlamaLayer:
    """A decoder layer, packed. Takes and returns ``[B, T, H]``; never writes into what it is given."""

    def __init__(self, weights: LlamaWeights, pack: PackLinear) -> None:
        width = weights.head_dim
        self._heads, self._kv_heads = len(weights.q) // width, len(weights.k) // width
        self._head_dim, self._eps = width, weights.eps
        self._norm_1, self._norm_2 = weights.attention_norm.clone(), weights.mlp_norm.clone()
        self._qkv = pack(torch.cat([weights.q, weights.k, weights.v]), None)
        self._o = pack(weights.o, None)
        self._gate_up = pack(torch.cat([weights.gate, weights.up]), None)
        self._down = pack(weights.down, None)

    def __call__(self, x: Tensor, tables: LlamaTables) -> Tensor:
        """``[B, T, H]`` through the layer."""
        norm = x.shape[-1:]
        x = self._o(self._attended(F.rms_norm(x, norm, self._norm_1, self._eps), tables)).add_(x)
        gate, up = self._gate_up(F.rms_norm(x, norm, self._norm_2, self._eps)).chunk(2, -1)
        return self._down(F.silu(gate).mul_(up)).add_(x)

    def _attended(self, x: Tensor, tables: LlamaTables) -> Tensor:
        """``[B, T, heads * head_dim]``, what each head reads, side by side."""
        batch, tokens, _ = x.shape
        rotated = self._heads + self._kv_heads
        qkv = self._qkv(x).view(batch, tokens, rotated + self._kv_heads, self._head_dim).transpose(1, 2)
        qk, v = rotate(qkv[:, :rotated], tables), qkv[:, rotated:]
        q, k = qk[:, : self._heads], qk[:, self._heads :]
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=tables.mask, enable_gqa=self._heads != self._kv_heads)
        return read.transpose(1, 2).reshape(batch, tokens, -1)


def rotate(heads: Tensor, tables: LlamaTables) -> Tensor:
    """Rotary embedding of ``[B, heads, T, head_dim]``, halves against each other as in the published layout.

    (a, b) -> (a cos - b sin, b cos + a sin), each product rounded as upstream does: no fused multiply-add. Each head's
    tokens come out side by side, which attention reads faster.
    """
    half, rotated = heads.shape[-1] // 2, torch.empty_like(heads, memory_format=torch.contiguous_format)
    a, b = heads[..., :half], heads[..., half:]
    crossed = b * tables.sin
    torch.mul(a, tables.cos, out=rotated[..., :half]).sub_(crossed)
    torch.mul(a, tables.sin, out=crossed)
    torch.mul(b, tables.cos, out=rotated[..., half:]).add_(crossed)
    return rotated
