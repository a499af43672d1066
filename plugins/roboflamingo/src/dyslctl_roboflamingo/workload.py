"""Size of one inference for the roofline model, counted on the modules themselves (1 MAC = 2 FLOP)."""

from __future__ import annotations

import torch
from torch import nn

from dyslctl.backbone import Workload
from dyslctl_roboflamingo.config import Files, settings_of
from dyslctl_roboflamingo.images import VIEWS
from dyslctl_roboflamingo.model import RoboFlamingoModel

PUBLISHED_TOKENS = 13
"""Of a usual instruction of CALVIN with the three marks around it."""


def published(size: str) -> Workload:
    """A released size, without weights."""
    with torch.device("meta"):
        return workload_of(RoboFlamingoModel(settings_of(size, Files(policy="none"))), PUBLISHED_TOKENS)


def workload_of(model: RoboFlamingoModel, tokens: int) -> Workload:
    """The workload of ``model`` at batch 1 with a prompt of ``tokens``.

    Where only some layers have cross-attention, a layer is their mean. Keys and values of the latents, more rows than
    there are words, are counted as the words are: these layers wait for memory, not for arithmetic.
    """
    settings = model.settings
    per_view = _tower_flop(model) + _perceiver_flop(model)
    return Workload(
        num_layers=len(model.layers),
        tokens=tokens,
        hidden_size=settings.language_model.width,
        layer_params=_params(model.layers) // len(model.layers),
        encode_gflop=len(VIEWS) * per_view / 1e9,
        encode_params=_params(model.vision) + _params(model.perceiver),
        # In a full window the LSTM goes over all of it.
        head_gflop=2 * (settings.head.window * _matrices(model.head.rnn) + _matrices(model.head.actions)
                        + _matrices(model.head.gripper)) / 1e9,
        head_params=_params(model.head),
    )  # fmt: skip


def _tower_flop(model: RoboFlamingoModel) -> int:
    """Per block ``2 T`` times its matrices and ``4 T^2 W`` for attention."""
    vision = model.settings.vision
    tokens = vision.patches + 1
    embedding = 2 * vision.patches * vision.width * 3 * vision.patch**2
    matrices = vision.layers * (4 * vision.width**2 + 2 * vision.width * vision.mlp)
    return embedding + 2 * tokens * matrices + 4 * tokens**2 * vision.width * vision.layers


def _perceiver_flop(model: RoboFlamingoModel) -> int:
    """Latents ask patches and latents: ``K`` queries, ``P + K`` keys."""
    vision, config = model.settings.vision, model.settings.perceiver
    inner, seen = config.heads * config.head_width, vision.patches + config.latents
    own = config.latents * (2 * inner * vision.width + 8 * vision.width**2)
    return 2 * config.layers * (own + 2 * seen * inner * vision.width + 2 * config.latents * seen * inner)


def _params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _matrices(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim == 2)
