from __future__ import annotations

import math

import torch
from torch import Tensor

from dyslctl.pruning.attention import Asked, answering_tokens, ask, text_tokens
from dyslctl.types import LayerState

KINDS = [[1, 16, 16, 3, 3, 4, 4, 5, 0], [1, 16, 16, 3, 4, 4, 5, 0, 0]]
"""Two prompts of two tokens and of one, padded."""


def state(kinds: list[list[int]] = KINDS) -> LayerState:
    found = torch.tensor(kinds)
    shape = found.shape
    return LayerState(torch.zeros(*shape, 1), torch.arange(shape[1]).expand(shape), found, found != 0)


def test_who_asks() -> None:
    assert text_tokens(state()).int().tolist() == [[0, 0, 0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0, 0]]
    assert answering_tokens(state()).int().tolist() == [[0, 0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 0, 0, 0]]
    assert answering_tokens(state([[1, 16, 3, 3]])).int().tolist() == [[0, 0, 0, 1]], "a head that generates"
    assert answering_tokens(state([[1, 16, 4, 4]])).int().tolist() == [[0, 0, 1, 1]], "a model without a prompt"


def test_masked_tokens_do_not_ask() -> None:
    hidden = state()
    hidden.mask = torch.tensor(KINDS) != 3
    assert not text_tokens(hidden).any()


def test_each_sample_asks_with_its_own_tokens() -> None:
    """Rows are told apart by their first weight, which is the query's index."""

    def rows(layer: int, state: LayerState, queries: Tensor) -> Tensor:
        assert layer == 7
        made = torch.zeros(2, 2, queries.shape[1], 9)
        made[..., 0] = queries[:, None] * torch.tensor([1.0, 3.0])[None, :, None]
        return made

    asked = ask(rows, 7, state(), text_tokens(state()))
    assert asked.asking.tolist() == [[True, True], [True, False]]
    # mean over two heads, of weight 1 and 3, of the queries 3 and 4; of the query 3
    assert asked.received()[:, 0].tolist() == [7.0, 6.0]


def test_attention_received_by_hand() -> None:
    """One sample, two heads, two rows, three keys."""
    rows = torch.tensor([[[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], [[1.0, 0.0, 0.0], [0.4, 0.2, 0.4]]]])
    received = Asked(rows, torch.ones(1, 2, dtype=torch.bool)).received()
    torch.testing.assert_close(received, torch.tensor([[2.0, 0.65, 1.35]]) / 4)


def test_entropy_by_hand() -> None:
    """Of two keys with a quarter each of a row: ln 2; of one key: 0; how much goes to others makes no difference."""
    rows = torch.tensor([[[[0.25, 0.25, 0.5], [0.5, 0.0, 0.5]]]])
    asking = torch.ones(1, 2, dtype=torch.bool)
    two, one = torch.tensor([[True, True, False]]), torch.tensor([[False, True, False]])
    assert math.isclose(Asked(rows, asking).entropy(two).item(), math.log(2) / 2, rel_tol=1e-6)
    assert Asked(rows, asking).entropy(one).tolist() == [0]
    first = asking & torch.tensor([True, False])
    assert math.isclose(Asked(rows, first).entropy(two).item(), math.log(2), rel_tol=1e-6)
