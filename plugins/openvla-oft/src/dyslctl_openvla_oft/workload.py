"""Size of one inference for the roofline model, counted on the modules themselves (1 MAC = 2 FLOP)."""

from __future__ import annotations

import torch
from torch import nn

from dyslctl.backbone import Workload
from dyslctl_openvla_oft.config import OFTConfig
from dyslctl_openvla_oft.modeling import OFTModel
from dyslctl_openvla_oft.vision import VisionTower

PUBLISHED_TOKENS = 605
"""OpenVLA-OFT 7B on LIBERO: two views and a prompt of 34 tokens."""


def published() -> Workload:
    """OpenVLA-OFT 7B, two views."""
    with torch.device("meta"):
        return workload_of(OFTModel(OFTConfig()), PUBLISHED_TOKENS)


def workload_of(model: OFTModel, tokens: int) -> Workload:
    """The workload of ``model`` at batch 1 with a sequence of ``tokens``."""
    views, patches = model.config.oft.num_images, model.config.num_patches
    vision, head = model.vision_backbone, model.action_head
    towers = (vision.featurizer, vision.fused_featurizer)
    flop = sum(_tower_flop(tower, patches) for tower in towers) * views
    projectors = [model.projector, *filter(None, [model.proprio_projector])]
    flop += 2 * _matrix_params(model.projector) * views * patches
    flop += 2 * sum(map(_matrix_params, projectors[1:]))
    return Workload(
        num_layers=model.num_layers,
        tokens=tokens,
        hidden_size=int(model.language_model.config.hidden_size),
        layer_params=_params(model.layers(0)),
        encode_gflop=flop / 1e9,
        encode_params=sum(map(_params, (vision, *projectors))),
        head_gflop=2 * _matrix_params(head) * model.config.oft.chunk_length / 1e9,
        head_params=_params(head),
    )


def _tower_flop(tower: VisionTower, patches: int) -> int:
    """Patches, then per block ``2 T`` times its matrices and ``4 T^2 H`` for attention."""
    tokens, width = patches + tower.prefix_tokens, tower.pos_embed.shape[-1]
    attention = 4 * tokens**2 * width * len(tower.blocks)
    return 2 * patches * tower.patch_embed.proj.weight.numel() + 2 * tokens * _matrix_params(tower.blocks) + attention


def _params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _matrix_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim == 2)
