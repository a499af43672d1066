"""CLIP's vision transformer, as OpenFlamingo reads it.

Two things go wrong without any error. The patches are taken *before* the last norm (``ln_post``), which CLIP applies to
its class token alone; newer versions of ``open_clip`` hand out patches behind it. And OpenAI's weights want QuickGELU,
which newer versions no longer choose by themselves. ``transformers``' ``last_hidden_state`` is before the norm, and the
activation is a setting (``vision.quick_gelu``); tests hold both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from dyslctl_roboflamingo.config import Vision


class VisionTower(nn.Module):
    """Pixels of a view to its patches."""

    def __init__(self, config: Vision) -> None:
        super().__init__()
        clip = CLIPVisionConfig(
            hidden_size=config.width,
            intermediate_size=config.mlp,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            image_size=config.image_size,
            patch_size=config.patch,
            hidden_act="quick_gelu" if config.quick_gelu else "gelu",
        )
        clip._attn_implementation = "sdpa"
        self.clip = CLIPVisionModel(clip)

    def forward(self, pixels: Tensor) -> Tensor:
        """``[B, 3, s, s]`` -> ``[B, P, W]``, without the class token."""
        patches: Tensor = self.clip(pixel_values=pixels).last_hidden_state[:, 1:]
        return patches

    def number_positions(self) -> None:
        """Fill in the one buffer that no file holds, and that a model made on ``meta`` lacks."""
        for name, buffer in list(self.named_buffers()):
            place, _, own = name.rpartition(".")
            numbers = torch.arange(buffer.shape[-1], device=next(self.parameters()).device)
            self.get_submodule(place).register_buffer(own, numbers.expand(1, -1), persistent=False)
