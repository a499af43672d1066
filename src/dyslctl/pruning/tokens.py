"""Which tokens may be dropped, and how many stay.

Only visual tokens are ever dropped: BOS, proprio, text, action and stop tokens always stay, in their order and at their
positions. Each camera view has a budget of its own, so that none goes blind.

A selection names tokens by their *original* positions, which no gathering changes: so those chosen at different layers,
or in different inferences of one scene, can be united.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dyslctl.errors import ConfigError
from dyslctl.types import LayerState, TokenKind

Choose = Callable[[Tensor, int], Tensor]
"""What is known of one view's tokens, ``[N, ...]``, and ``K <= N`` -> ``[K]`` int64, those to keep, in any order."""


def snapped(count: int, tokens: int, bucket: int = 1) -> int:
    """``count`` rounded up to a multiple of ``bucket``; at least 1, at most ``tokens``."""
    return min(tokens, bucket * math.ceil(max(1, count) / bucket))


def budget(share: float, tokens: int, bucket: int = 1) -> int:
    """``floor(share * tokens + 0.5)``, then :func:`snapped`: how many of ``tokens`` stay."""
    return snapped(math.floor(share * tokens + 0.5), tokens, bucket)


def top(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest of ``[N]``, the largest first; of equals the first, on any device."""
    return scores.sort(descending=True, stable=True).indices[:count]


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


def retain(state: LayerState, chosen: Sequence[Tensor]) -> None:
    """Of the visual tokens go on with those at the positions ``chosen``, one tensor a sample; all others stay.

    Where that is every token, nothing is touched.

    Args:
        state: Every sample of it must go on with equally many tokens.
        chosen: Original positions, in any order; those that are no longer there count for nothing.
    """
    stays = torch.stack(
        [
            (kinds < TokenKind.VISION) | torch.isin(positions, wanted)
            for kinds, positions, wanted in zip(state.kinds, state.positions, chosen, strict=True)
        ]
    )
    if not bool(stays.all()):
        state.select(torch.stack([row.nonzero().flatten() for row in stays]))


def prune(state: LayerState, share: float, choose: Choose, known: Tensor | None = None, bucket: int = 1) -> None:
    """Keep ``share`` of each view's tokens of ``state``, those that ``choose`` names; all of them: nothing is touched.

    Args:
        state: Goes on with fewer tokens.
        share: Above 0 and at most 1.
        choose: Asked once a view.
        known: ``[B, T, ...]``, what it chooses by; ``None``: the hidden states.
        bucket: See :func:`budget`.

    Raises:
        ConfigError: If there are no visual tokens.
    """
    seen = [views(kinds) for kinds in state.kinds]
    if share < 1:
        known = state.hidden if known is None else known
        chosen = [_chosen(*sample, share, choose, bucket) for sample in zip(known, state.positions, seen, strict=True)]
        retain(state, chosen)


def _chosen(
    known: Tensor, positions: Tensor, seen: Sequence[Tensor], share: float, choose: Choose, bucket: int
) -> Tensor:
    """Positions of one sample's visual tokens that stay. ``known`` ``[T, ...]``, ``positions`` ``[T]``."""
    return torch.cat([positions[view[choose(known[view], budget(share, len(view), bucket))]] for view in seen])
