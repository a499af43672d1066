"""The two vision transformers, in plain torch, with the parameter names of the published checkpoints.

They equal timm's ``vit_large_patch14_reg4_dinov2`` and ``vit_so400m_patch14_siglip_224``, cut after the block whose
output the VLA reads: the last block, the final norm and the pooling head of a checkpoint are never used.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyslctl_openvla_oft.config import AttentionImplementation, TowerConfig, VisionConfig


class PatchEmbed(nn.Module):
    """``[B, 3, s, s]`` pixels -> ``[B, T, H]`` patches, row by row."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, kernel_size=config.patch, stride=config.patch)

    def forward(self, pixels: Tensor) -> Tensor:
        """Cut into patches, one vector each."""
        patches: Tensor = self.proj(pixels)
        return patches.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, config: TowerConfig, attn_implementation: AttentionImplementation) -> None:
        super().__init__()
        self.heads = config.heads
        self.eager = attn_implementation == "eager"
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, hidden: Tensor) -> Tensor:
        """``[B, T, H]`` to ``[B, T, H]``."""
        batch, tokens, width = hidden.shape
        qkv = self.qkv(hidden).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        if self.eager:
            scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
            mixed = scores.softmax(dim=-1) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(hidden.shape))
        return projected


class MLP(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp)
        self.fc2 = nn.Linear(config.mlp, config.width)

    def forward(self, hidden: Tensor) -> Tensor:
        """``[B, T, H]`` to ``[B, T, H]``."""
        projected: Tensor = self.fc2(F.gelu(self.fc1(hidden)))
        return projected


class LayerScale(nn.Module):
    """A learned scale for each channel. Published as ``scale_factor``; timm calls it ``gamma``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, hidden: Tensor) -> Tensor:
        """``[B, T, H]`` to ``[B, T, H]``."""
        return hidden * self.scale_factor


class Block(nn.Module):
    """Pre-norm transformer block, ``[B, T, H]`` to ``[B, T, H]``."""

    def __init__(self, config: TowerConfig, attn_implementation: AttentionImplementation = "sdpa") -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = Attention(config, attn_implementation)
        self.ls1 = LayerScale(config.width) if config.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = MLP(config)
        self.ls2 = LayerScale(config.width) if config.layer_scale else nn.Identity()

    def forward(self, hidden: Tensor) -> Tensor:
        """Attention, then MLP, each on a residual branch."""
        hidden = hidden + self.ls1(self.attn(self.norm1(hidden)))
        output: Tensor = hidden + self.ls2(self.mlp(self.norm2(hidden)))
        return output


class VisionTower(nn.Module):
    """One vision transformer up to the output of its last block but one.

    Args:
        config: Sizes; ``config.depth - 1`` blocks are built.
        image_size: Height and width of the input, pixels.
        attn_implementation: ``eager`` writes the softmax out, which trains faster on a CPU.
    """

    def __init__(
        self, config: TowerConfig, image_size: int, attn_implementation: AttentionImplementation = "sdpa"
    ) -> None:
        super().__init__()
        patches = (image_size // config.patch) ** 2
        self.prefix_tokens = config.prefix_tokens
        self.patch_embed = PatchEmbed(config)
        if config.registers is not None:
            self.cls_token = nn.Parameter(torch.randn(1, 1, config.width) * 0.02)
            self.reg_token = nn.Parameter(torch.randn(1, config.registers, config.width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, patches, config.width) * 0.02)
        self.blocks = nn.ModuleList(Block(config, attn_implementation) for _ in range(config.depth - 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """``[B, 3, s, s]`` -> ``[B, T, H]``: patch features without final norm, class token and registers dropped."""
        hidden: Tensor = self.patch_embed(pixels) + self.pos_embed
        if self.prefix_tokens:
            prefix = torch.cat([self.cls_token, self.reg_token], dim=1)
            hidden = torch.cat([prefix.expand(len(hidden), -1, -1), hidden], dim=1)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden[:, self.prefix_tokens :]


class FusedVisionBackbone(nn.Module):
    """Both towers on every view. An image is six channels: normalised for DINOv2, then for SigLIP."""

    def __init__(
        self, config: VisionConfig, image_size: int, attn_implementation: AttentionImplementation = "sdpa"
    ) -> None:
        super().__init__()
        self.featurizer = VisionTower(config.dino, image_size, attn_implementation)
        self.fused_featurizer = VisionTower(config.siglip, image_size, attn_implementation)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """``[B, 6 * V, s, s]`` -> ``[B, V * patches, dino + siglip width]``, the views one after another."""
        batch, channels, height, width = pixel_values.shape
        images = pixel_values.reshape(batch * channels // 6, 6, height, width)
        features = torch.cat([self.featurizer(images[:, :3]), self.fused_featurizer(images[:, 3:])], dim=-1)
        return features.reshape(batch, -1, features.shape[-1])


def unused_tensors(config: TowerConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a checkpoint holds for a tower beyond what :class:`VisionTower` computes."""
    width = config.width
    with torch.device("meta"):
        block, mlp = Block(config), MLP(config)
    shapes = {f"blocks.{config.depth - 1}.{name}": tuple(t.shape) for name, t in block.state_dict().items()}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    if config.attention_pool:
        shapes |= {f"attn_pool.mlp.{name}": tuple(tensor.shape) for name, tensor in mlp.state_dict().items()}
        for name, rows in (("q", width), ("kv", 2 * width), ("proj", width)):
            shapes |= {f"attn_pool.{name}.weight": (rows, width), f"attn_pool.{name}.bias": (rows,)}
        shapes |= {"attn_pool.norm.weight": (width,), "attn_pool.norm.bias": (width,)}
        shapes["attn_pool.latent"] = (1, 1, width)
    return shapes
