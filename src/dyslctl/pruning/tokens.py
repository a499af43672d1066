"""Which tokens may be dropped, and how many stay.

Only visual tokens are ever dropped: BOS, proprio, text, action and stop tokens always stay, in their order and at their
positions. Each camera view has a budget of its own, so that none goes blind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dyslctl.errors import ConfigError
from dyslctl.types import LayerState, TokenKind

Choose = Callable[[Tensor, int], Tensor]
"""``[N, H]`` hidden states of one view's tokens and ``K <= N`` -> ``[K]`` int64, those to keep, in any order."""


def budget(share: float, tokens: int) -> int:
    """``floor(share * tokens + 0.5)``, at least 1: how many of ``tokens`` stay."""
    return max(1, math.floor(share * tokens + 0.5))


def check_share(share: float) -> float:
    """``share`` itself.

    Raises:
        ConfigError: If it is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"expected a share of visual tokens above 0 and at most 1, found {share:g}")
    return share


def views(kinds: Tensor) -> list[Tensor]:
    """Indices of each view's tokens, ascending, by view.

    Args:
        kinds: ``[T]`` int64, :class:`~dyslctl.types.TokenKind` of one sample's tokens.

    Raises:
        ConfigError: If there are none: the layers see the images in another way (RoboFlamingo: by cross-attention).
    """
    found = sorted({kind for kind in kinds.tolist() if kind >= TokenKind.VISION})
    if not found:
        raise ConfigError(
            "expected visual tokens to prune, found none among those that the layers see",
            hint="token pruning is for backbones whose language model reads image tokens, such as openvla-oft",
        )
    return [(kinds == kind).nonzero().flatten() for kind in found]


def prune(state: LayerState, share: float, choose: Choose) -> None:
    """Keep ``share`` of each view's tokens of ``state``, those that ``choose`` names; all of them: nothing is touched.

    Raises:
        ConfigError: If there are no visual tokens.
    """
    seen = [views(kinds) for kinds in state.kinds]
    if share < 1:
        kept = [_kept(*sample, share, choose) for sample in zip(state.hidden, state.kinds, seen, strict=True)]
        state.select(torch.stack(kept))


def _kept(hidden: Tensor, kinds: Tensor, seen: Sequence[Tensor], share: float, choose: Choose) -> Tensor:
    """Ascending indices ``[K]`` of one sample's tokens that stay. ``hidden`` ``[T, H]``, ``kinds`` ``[T]``."""
    stays = kinds < TokenKind.VISION
    for view in seen:
        stays[view[choose(hidden[view], budget(share, len(view)))]] = True
    return stays.nonzero().flatten()
