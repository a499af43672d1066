"""SpecPrune-VLA and its rivals name layers of a model of 32 and tokens of a view of 256; here are those of others."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dyslctl.errors import ConfigError

LAYERS, TOKENS = 32, 256


def depth(layers: int, num_layers: int) -> int:
    """After how many of ``num_layers`` layers a model is where one of 32 is after ``layers``; at least 1, half up."""
    return max(1, math.floor(layers * num_layers / LAYERS + 0.5))


def depths(layers: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """:func:`depth` of each, ascending, each once."""
    return tuple(sorted({depth(layer, num_layers) for layer in layers}))


def count(base: float, tokens: int) -> int:
    """``base`` of 256 tokens, of ``tokens``: half up, at least 1, at most all."""
    return min(tokens, max(1, math.floor(base * tokens / TOKENS + 0.5)))


def require_layers_behind(method: str, after_layers: int, num_layers: int) -> None:
    """Who prunes after ``after_layers`` layers needs one to run on what is left.

    Raises:
        ConfigError: If there is none.
    """
    if after_layers >= num_layers:
        raise ConfigError(
            f"{method} prunes after {after_layers} layers: expected fewer than the {num_layers} of this backbone",
            hint="--set pruning.after_layers=2",
        )
