"""Which model a configuration describes."""

from __future__ import annotations

from collections.abc import Mapping

from dyslctl_openvla_oft.autoregressive import OpenVLAModel
from dyslctl_openvla_oft.config import AttentionImplementation, Head, OFTConfig
from dyslctl_openvla_oft.modeling import OFTModel
from dyslctl_openvla_oft.prismatic import PrismaticModel

_MODELS: Mapping[Head, type[PrismaticModel]] = {"l1": OFTModel, "tokens": OpenVLAModel}


def new_model(config: OFTConfig, attn_implementation: AttentionImplementation = "sdpa") -> PrismaticModel:
    """The model, without weights."""
    return _MODELS[config.oft.head](config, attn_implementation)
