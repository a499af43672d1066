"""The whole network: two views and an instruction to one action."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dyslctl.types import LayerInputs, TokenKind
from dyslctl_roboflamingo.config import Settings
from dyslctl_roboflamingo.flamingo import GatedCrossAttention, PerceiverResampler
from dyslctl_roboflamingo.head import RecurrentHead, pooled
from dyslctl_roboflamingo.mpt import MPTBlock, layer_norm
from dyslctl_roboflamingo.vision import VisionTower


class FlamingoLayer(nn.Module):
    """One decoder layer: gated cross-attention, where there is one, and a block of MPT. Skipping it skips both."""

    def __init__(self, settings: Settings, index: int) -> None:
        super().__init__()
        cross, width = settings.cross_attention, settings.language_model.width
        sees = (index + 1) % cross.every == 0
        self.cross_attention = GatedCrossAttention(width, settings.vision.width, cross) if sees else None
        self.block = MPTBlock(settings.language_model)

    def forward(self, hidden: Tensor, media: Tensor, bias: Tensor) -> Tensor:
        """``[B, T, H]``, latents ``[B, M, W]`` and what :func:`attention_bias` says -> ``[B, T, H]``."""
        if self.cross_attention is not None:
            hidden = self.cross_attention(hidden, media)
        out: Tensor = self.block(hidden, bias)
        return out


class RoboFlamingoModel(nn.Module):
    """Parts by the names that ``layout.py`` maps published tensors to.

    Layers that no action depends on (``feature_tap``) are not there.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        language = settings.language_model
        self.settings = settings
        self.vision = VisionTower(settings.vision)
        self.perceiver = PerceiverResampler(settings.vision.width, settings.perceiver)
        self.wte = nn.Embedding(language.vocabulary, language.width)
        self.layers = nn.ModuleList(FlamingoLayer(settings, index) for index in range(settings.live_layers))
        self.norm_f = layer_norm(language.width) if settings.final_norm else nn.Identity()
        self.head = RecurrentHead(language.width, settings.head)

    def see(self, pixels: Tensor) -> Tensor:
        """``[B, V, 3, s, s]`` -> ``[B, V * K, W]``: each view's latents, by one resampler, in the views' order."""
        latents: Tensor = self.perceiver(self.vision(pixels.flatten(0, 1)))
        return latents.reshape(len(pixels), -1, latents.shape[-1])

    def embed(self, pixels: Tensor, ids: Tensor, lengths: Tensor) -> LayerInputs:
        """What enters layer 0.

        Args:
            pixels: ``[B, V, 3, s, s]``, normalised.
            ids: ``[B, T]`` int64, padded on the right.
            lengths: ``[B]`` int64, tokens that are no padding.
        """
        positions = torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)
        real = positions < lengths.to(ids.device)[:, None]
        return LayerInputs(
            hidden=self.wte(ids),
            positions=positions,
            # The head reads them all, the marker of the images too.
            kinds=torch.where(real, int(TokenKind.TEXT), int(TokenKind.PAD)),
            mask=None if bool(real.all()) else real,
            conditioning=self.see(pixels),
        )

    def run_layer(self, layer: int, hidden: Tensor, media: Tensor, bias: Tensor) -> Tensor:
        """Layer number ``layer``."""
        out: Tensor = self.layers[layer](hidden, media, bias)
        return out

    def feature(self, hidden: Tensor, real: Tensor) -> Tensor:
        """``[B, T, H]`` and which tokens count ``[B, T]`` bool -> what the head reads of them, ``[B, H]``."""
        return pooled(self.norm_f(hidden), real)
