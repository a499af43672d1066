"""Tensors in a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write contiguous CPU ``tensors``, with ``metadata`` in the header.

    Raises:
        OSError: If it cannot be written; a full disk, too, which safetensors reports by an error of its own.
    """
    try:
        save_file(dict(tensors), path, metadata=dict(metadata))
    except SafetensorError as error:
        raise OSError(str(error)) from error


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; of a tensor on ``meta``, which has none, yes."""
    # Minimum and maximum propagate NaN, and unlike ``isfinite`` need no memory of the tensor's size.
    return tensor.is_meta or tensor.numel() == 0 or all(bool(bound.isfinite()) for bound in torch.aminmax(tensor))
