"""Checkpoints of the published layout with random weights: to test loading, memory and latency. They solve nothing."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dyslctl_roboflamingo.config import Files, Settings, settings_of
from dyslctl_roboflamingo.layout import Shape
from dyslctl_roboflamingo.tokenizer import build_tokenizer
from dyslctl_roboflamingo.writer import POLICY, Source, write_files

INSTRUCTIONS = (
    "take the red block and rotate it to the right",
    "push the sliding door to the left side",
    "pull the handle to open the drawer",
    "press the button to turn off the led light",
    "slide the block that it falls into the drawer",
)


def write_random_checkpoint(
    folder: Path,
    settings: Settings | None = None,
    *,
    seed: int = 0,
    values: Literal["random", "zeros"] = "random",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a checkpoint of the model that ``settings`` describes (default: tiny), all files or none.

    Args:
        folder: Where to; a checkpoint that is there is replaced.
        settings: Sizes; which files there are is decided here.
        seed: Of the values. A tensor depends on it and on its own name alone.
        values: ``zeros``: files that hold names and shapes, and one number a tensor.
        dtype: Of the stored weights.

    Raises:
        ConfigError: If there is something at ``folder`` that is no checkpoint.
        EnvironmentMismatch: If it cannot be written.
    """
    settings = settings or settings_of("tiny", Files(policy=POLICY))
    source = random_source(seed) if values == "random" else None
    write_files(folder, settings, source, build_tokenizer(INSTRUCTIONS, settings.max_tokens), dtype)


def random_source(seed: int) -> Source:
    """Scales about 1, gates far from 0, matrices with ``0.5 / sqrt(fan in)``: branches stay smaller than their sum."""

    def source(name: str, shape: Shape) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        values = torch.randn(shape, generator=generator)
        if name.endswith("_gate"):
            return values
        if len(shape) == 1:
            return values.mul_(0.1).add_(1.0 if name.endswith("weight") else 0.0)
        return values.mul_(0.5 / math.sqrt(math.prod(shape[1:])))

    return source
