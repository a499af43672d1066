"""Size of one inference for the roofline model, counted on the modules themselves (1 MAC = 2 FLOP)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dyslctl.backbone import Workload
from dyslctl_openvla_oft.autoregressive import OpenVLAModel
from dyslctl_openvla_oft.config import RELEASED, OFTConfig
from dyslctl_openvla_oft.modeling import OFTModel
from dyslctl_openvla_oft.prismatic import PrismaticModel
from dyslctl_openvla_oft.vision import VisionTower

PUBLISHED_TOKENS, PUBLISHED_PREFILL = 605, 291
"""OpenVLA-OFT 7B on LIBERO: two views and a prompt of 34 tokens; OpenVLA 7B: one view and the same prompt."""


def published() -> Workload:
    """OpenVLA-OFT 7B, two views."""
    with torch.device("meta"):
        return workload_of(OFTModel(OFTConfig()), PUBLISHED_TOKENS)


def published_generation() -> Workload:
    """OpenVLA 7B."""
    config = OFTConfig(text_config={"vocab_size": 32064}, oft=RELEASED["tokens"])
    with torch.device("meta"):
        return generation(OpenVLAModel(config), PUBLISHED_PREFILL)


def workload_of(model: OFTModel, tokens: int) -> Workload:
    """The workload of ``model`` at batch 1 with a sequence of ``tokens``."""
    head, proprio = model.action_head, model.proprio_projector
    flop = 2 * _matrix_params(head) * model.config.oft.chunk_length
    return _workload(model, tokens, [] if proprio is None else [proprio], flop, _params(head))


def generation(model: OpenVLAModel, prefill: int) -> Workload:
    """The workload of ``model`` at batch 1 with a prompt that makes ``prefill`` tokens.

    The layers are the prefill. Each later token reads the weights of all of them again: that is the head's part here,
    so that skipping, which saves it too, is given no credit for it.
    """
    tokens, layer = model.config.oft.action_dim, model.layers(0)
    attention = 4 * prefill * model.hidden_size
    flop = 2 * tokens * _matrix_params(model.lm_head)
    flop += (tokens - 1) * model.num_layers * (2 * _matrix_params(layer) + attention)
    read = tokens * _params(model.lm_head) + (tokens - 1) * model.num_layers * _params(layer)
    return _workload(model, prefill, [], flop, read)


def _workload(
    model: PrismaticModel, tokens: int, projectors: Sequence[nn.Module], head_flop: int, head_params: int
) -> Workload:
    """``projectors``: what makes one token each, beside the vision."""
    views, patches, vision = model.config.oft.num_images, model.config.num_patches, model.vision_backbone
    flop = sum(_tower_flop(tower, patches) for tower in (vision.featurizer, vision.fused_featurizer)) * views
    flop += 2 * _matrix_params(model.projector) * views * patches
    flop += 2 * sum(map(_matrix_params, projectors))
    return Workload(
        num_layers=model.num_layers,
        tokens=tokens,
        hidden_size=model.hidden_size,
        layer_params=_params(model.layers(0)),
        encode_gflop=flop / 1e9,
        encode_params=sum(map(_params, (vision, model.projector, *projectors))),
        head_gflop=head_flop / 1e9,
        head_params=head_params,
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
