"""Which tokens ask for the action, and what each of them is to the exits: all that follows from token kinds alone.

From one inference to the next the kinds are the same until the instruction changes, so an inference can take over
the layout of the one before (:class:`LastLayout`): on a small model working it out anew would cost half a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dyslctl.dysl.plan_memory import action_slots
from dyslctl.dysl.skip_modules import QUERY_KINDS
from dyslctl.types import LayerState, TokenKind

POOLED = 3
"""Vectors that a planner reads: of the action tokens, of the proprio tokens, of the last text token."""


@dataclass(frozen=True)
class QueryLayout:
    """The query tokens of ``B`` samples.

    Attributes:
        keep: ``[B, K]`` int64, ascending indices of the tokens that a head may read (proprio, text, action). Rows with
            fewer of them are filled up with others: a head finds its tokens by kind.
        slots: ``[B, K]`` int64, the action of a chunk that each kept token speaks for.
        weights: ``[B, 3, T]``, what :meth:`features` takes of each token, in the hidden state's dtype.
    """

    keep: Tensor
    slots: Tensor
    weights: Tensor

    @classmethod
    def of(cls, state: LayerState, chunk_length: int) -> QueryLayout:
        """That of the tokens that ``state`` holds now."""
        keep = query_tokens(state)
        slots = action_slots(state, chunk_length).gather(1, keep)
        return cls(keep, slots, _pooling(state))

    def features(self, hidden: Tensor, memory: Tensor) -> Tensor:
        """What the planner reads of ``[B, T, H]``: ``[B, 3 H + P]``.

        Mean over the action tokens, mean over the proprio tokens, and the last text token: what the layers so far made
        of the task, of the arm, and of the place where both meet (zero where there are no such tokens); then ``memory``
        ``[B, P]``.
        """
        return torch.cat([torch.bmm(self.weights, hidden).flatten(1), memory], 1)


class LastLayout:
    """The layout of the last inference, for as long as it fits."""

    def __init__(self, chunk_length: int) -> None:
        self._chunk_length = chunk_length
        self._known: tuple[LayerState, QueryLayout] | None = None

    def of(self, state: LayerState) -> QueryLayout:
        """:meth:`QueryLayout.of`, worked out only if the tokens are others than last time."""
        if self._known is None or not same_tokens(state, self._known[0]):
            self._known = (state.fork(), QueryLayout.of(state, self._chunk_length))
        return self._known[1]


def same_tokens(state: LayerState, last: LayerState) -> bool:
    """Whether kinds, mask, dtype and device agree; equal objects are not looked into."""
    if state.hidden.dtype != last.hidden.dtype or state.hidden.device != last.hidden.device:
        return False
    pairs = ((state.kinds, last.kinds), (state.mask, last.mask))
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def query_tokens(state: LayerState) -> Tensor:
    """``[B, K]``, :attr:`QueryLayout.keep`."""
    kinds = _kinds(state)
    members = (kinds >= min(QUERY_KINDS)) & (kinds <= max(QUERY_KINDS))
    count = int(members.sum(1).max())
    first = (~members).int().argsort(dim=1, stable=True)[:, :count]
    return first.sort(dim=1).values


def _pooling(state: LayerState) -> Tensor:
    kinds = _kinds(state)
    text = kinds == TokenKind.TEXT
    last_text = text & (text.cumsum(1) == text.sum(1, keepdim=True))
    members = torch.stack([kinds == TokenKind.ACTION, kinds == TokenKind.PROPRIO, last_text], dim=1)
    return (members / members.sum(2, keepdim=True).clamp_min(1)).to(state.hidden.dtype)


def _kinds(state: LayerState) -> Tensor:
    """``[B, T]``, padding by the mask shown as padding."""
    return state.kinds if state.mask is None else state.kinds.where(state.mask, TokenKind.PAD)
