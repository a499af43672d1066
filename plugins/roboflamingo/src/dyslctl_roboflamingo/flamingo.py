"""OpenFlamingo's own parts: the perceiver resampler and gated cross-attention.

With the parameter names of ``open_flamingo`` and in its order of operations, so that weights and bits are the same; a
test compares both where that package is installed. It is not needed here: its pin of torch fits no other package.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dyslctl_roboflamingo.config import CrossAttention, Perceiver


def feed_forward(width: int) -> nn.Sequential:
    """LayerNorm and a four times wider inner layer without biases."""
    inner = 4 * width
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, inner, bias=False), nn.GELU(), nn.Linear(inner, width, bias=False)
    )


def attend(query: Tensor, key_value: Tensor, heads: int) -> Tensor:
    """``softmax(q k^T / sqrt(d)) v``.

    Args:
        query: ``[B, Q, heads * d]``.
        key_value: ``[B, T, 2 * heads * d]``, keys then values.
        heads: Of the attention.

    Returns:
        ``[B, Q, heads * d]``.
    """
    key, value = key_value.chunk(2, -1)
    q, k, v = (part.view(*part.shape[:2], heads, -1).transpose(1, 2) for part in (query, key, value))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    weights = (scores - scores.amax(-1, keepdim=True).detach()).softmax(-1)
    mixed: Tensor = weights @ v
    return mixed.transpose(1, 2).flatten(2)


class PerceiverAttention(nn.Module):
    """From the latents to a view's patches and to the latents themselves."""

    def __init__(self, width: int, config: Perceiver) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.heads = config.heads
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, patches: Tensor, latents: Tensor) -> Tensor:
        """``[B, P, W]`` and ``[B, K, W]`` -> ``[B, K, W]``."""
        patches, latents = self.norm_media(patches), self.norm_latents(latents)
        seen = torch.cat([patches, latents], 1)
        out: Tensor = self.to_out(attend(self.to_q(latents), self.to_kv(seen), self.heads))
        return out


class PerceiverResampler(nn.Module):
    """The patches of one view to ``K`` latents."""

    def __init__(self, width: int, config: Perceiver) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(config.latents, width))
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(width, config), feed_forward(width)]) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, patches: Tensor) -> Tensor:
        """``[B, P, W]`` -> ``[B, K, W]``."""
        latents = self.latents.expand(len(patches), -1, -1)
        for layer in self.layers:
            attention, forward = layer.children()
            latents = attention(patches, latents) + latents
            latents = forward(latents) + latents
        out: Tensor = self.norm(latents)
        return out


class LatentAttention(nn.Module):
    """From the words to the latents of all views, which are one medium.

    ``open_flamingo`` lets a word attend to the last medium before it. Here there is one, its marker is the first
    token, and so every word sees all of it: there is no mask.
    """

    def __init__(self, width: int, media_width: int, config: CrossAttention) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.heads = config.heads
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(media_width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, hidden: Tensor, media: Tensor) -> Tensor:
        """``[B, T, H]`` and ``[B, M, W]`` -> ``[B, T, H]``."""
        out: Tensor = self.to_out(attend(self.to_q(self.norm(hidden)), self.to_kv(media), self.heads))
        return out


class GatedCrossAttention(nn.Module):
    """``x + tanh(a) attn(x)``, then ``x + tanh(f) ff(x)``; both gates begin at zero, where it does nothing."""

    def __init__(self, width: int, media_width: int, config: CrossAttention) -> None:
        super().__init__()
        self.attn = LatentAttention(width, media_width, config)
        self.attn_gate = nn.Parameter(torch.zeros(1))
        self.ff = feed_forward(width)
        self.ff_gate = nn.Parameter(torch.zeros(1))

    def forward(self, hidden: Tensor, media: Tensor) -> Tensor:
        """``[B, T, H]`` and ``[B, M, W]`` -> ``[B, T, H]``."""
        hidden = self.attn(hidden, media) * self.attn_gate.tanh() + hidden
        out: Tensor = self.ff(hidden) * self.ff_gate.tanh() + hidden
        return out
