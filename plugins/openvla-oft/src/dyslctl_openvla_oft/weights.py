"""Load a checkpoint's weights: first every name and shape is checked, then one tensor after another is moved."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from dyslctl.artifacts.tensors import is_finite
from dyslctl_openvla_oft.config import AttentionImplementation, OFTConfig
from dyslctl_openvla_oft.inventory import (
    Inventory,
    opened_component,
    opened_shard,
    raise_problems,
    take_inventory,
)
from dyslctl_openvla_oft.models import new_model
from dyslctl_openvla_oft.prismatic import PrismaticModel

_log = logging.getLogger(__name__)


def load_model(
    folder: Path,
    config: OFTConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attn_implementation: AttentionImplementation = "sdpa",
) -> PrismaticModel:
    """Read the weights of ``folder`` into a frozen model in eval mode.

    Beside the model itself, the host never holds more than the pages of one file (mapped, so the system may drop them)
    and one converted tensor. On the ``meta`` device names and shapes are checked and nothing is read.

    Raises:
        ArtifactError: As :func:`take_inventory` does, or with every tensor that is not finite in ``dtype``.
    """
    inventory = take_inventory(folder, config)
    _log.info("%s: %d tensors unused: %s", folder, len(inventory.unused), ", ".join(inventory.unused))
    with torch.device("meta"):
        model = new_model(config, attn_implementation)
    model.load_state_dict(_moved(folder, inventory, torch.device(device), dtype), assign=True)
    return model.to(device).eval().requires_grad_(False)


def _moved(folder: Path, inventory: Inventory, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    state, problems = {}, []
    for path, names in inventory.loaded.items():
        for key, tensor in _read(path, names):
            moved = tensor.to(device, dtype, copy=True)  # not a window into the mapped file
            state[names[key]] = moved
            if not is_finite(moved):
                problems.append(f"not finite: {key} in {path.name}: NaN or infinite values in {dtype}")
    raise_problems(folder, problems)
    return state


def _read(path: Path, names: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors called ``names`` in ``path``, each mapped until the next is asked for."""
    if path.suffix == ".pt":
        yield from opened_component(path).items()
        return
    with opened_shard(path) as shard:
        for key in names:
            yield key, shard.get_tensor(key)
