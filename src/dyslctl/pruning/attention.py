"""How much attention tokens get, from those few rows of the attention map that belong to the tokens that ask.

The whole map is never made: the layers themselves run through a fused kernel, and ``Backbone.attention_rows`` says what
the asking tokens attended to. Schedules know no backbone; whoever builds one hands them that function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dyslctl.types import LayerState, TokenKind

AttentionRows = Callable[[int, LayerState, Tensor], Tensor]
"""``Backbone.attention_rows``: layer, state before it, ``[B, Q]`` int64 -> ``[B, heads, Q, T]`` float32."""
RunWithRows = Callable[[int, LayerState, Tensor], tuple[Tensor, Tensor]]
"""``Backbone.run_layer_with_rows``."""


def of_kind(state: LayerState, kind: TokenKind) -> Tensor:
    """``[B, T]`` bool: the real tokens of one kind."""
    found = state.kinds == kind
    return found if state.mask is None else found & state.mask


def text_tokens(state: LayerState) -> Tensor:
    """``[B, T]`` bool: the prompt."""
    return of_kind(state, TokenKind.TEXT)


def answering_tokens(state: LayerState) -> Tensor:
    """``[B, T]`` bool: the last prompt token and those that stand for actions, from whose outputs the action is read.

    Of a head that generates tokens, the last prompt token alone.
    """
    text = text_tokens(state)
    order = torch.arange(text.shape[1], device=text.device)
    last = torch.where(text, order, -1).amax(1, keepdim=True)
    return of_kind(state, TokenKind.ACTION) | (text & (order == last))


@dataclass(frozen=True)
class Asked:
    """What some tokens attend to in one layer.

    Attributes:
        rows: ``[B, heads, Q, T]`` float32; each row sums to one.
        asking: ``[B, Q]`` bool: samples may have unequally many asking tokens, and rows beyond theirs mean nothing.
    """

    rows: Tensor
    asking: Tensor

    def received(self) -> Tensor:
        """``[B, T]``: the mean over heads and asking tokens of the attention that each token gets.

        Equation 2 of SpecPrune-VLA, from text to image, as its Equation 7 and its public code have it.
        """
        return self._mean(self.rows)

    def entropy(self, seen: Tensor) -> Tensor:
        """``[B]``: ``-sum_j A_ij log A_ij`` over the tokens ``seen`` (``[B, T]`` bool), a mean over heads and rows.

        Equation 7 of SpecPrune-VLA, with each row's weights among ``seen`` scaled to sum to one: unscaled, rows that
        hardly attend to them would count as the most focused.
        """
        among = self.rows * seen[:, None, None]
        among = among / among.sum(-1, keepdim=True).clamp(min=torch.finfo(among.dtype).tiny)
        return self._mean(torch.special.entr(among)).sum(1)

    def _mean(self, rows: Tensor) -> Tensor:
        weights = self.asking / self.asking.sum(1, keepdim=True).clamp(min=1)
        return (rows.mean(1) * weights[..., None]).sum(1)


def ask(rows: AttentionRows, layer: int, state: LayerState, tokens: Tensor) -> Asked:
    """What ``tokens`` (``[B, T]`` bool) attend to in ``layer``, given the state before it."""
    queries = _indices(tokens)
    return Asked(rows(layer, state, queries), tokens.gather(1, queries))


def run_asking(run: RunWithRows, layer: int, state: LayerState, tokens: Tensor) -> tuple[Tensor, Asked]:
    """The output of ``layer``, and :func:`ask` beside."""
    queries = _indices(tokens)
    hidden, rows = run(layer, state, queries)
    return hidden, Asked(rows, tokens.gather(1, queries))


def _indices(tokens: Tensor) -> Tensor:
    """``[B, Q]`` int64: those that ask, then as many others as samples with fewer need."""
    count = int(tokens.sum(1).max())
    return tokens.int().sort(dim=1, descending=True, stable=True).indices[:, :count]
