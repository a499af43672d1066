from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dyslctl.dysl import query_layout
from dyslctl.dysl.query_layout import LastLayout, QueryLayout, query_tokens
from dyslctl.types import LayerState, TokenKind

BOS, SEEN, ARM, TEXT, ACT, STOP, PAD = (
    *(TokenKind.BOS, TokenKind.VISION, TokenKind.PROPRIO),
    *(TokenKind.TEXT, TokenKind.ACTION, TokenKind.STOP, TokenKind.PAD),
)
NOTHING = torch.zeros(1, 0)
"""A memory without room: what is left are the parts taken from tokens."""


def state_of(*rows: list[TokenKind], masked: bool = False) -> LayerState:
    """Hidden size 2; token ``t`` of a row holds ``(t, 10 t)``."""
    kinds = torch.tensor([[int(kind) for kind in row] for row in rows])
    places = torch.arange(kinds.shape[1]).expand(len(rows), -1)
    hidden = torch.stack([places, 10 * places], -1).float()
    return LayerState(hidden, places, kinds, kinds != PAD if masked else None)


def features(state: LayerState, memory: Tensor) -> Tensor:
    return QueryLayout.of(state, 1).features(state.hidden, memory)


def test_query_tokens_are_found_by_kind() -> None:
    assert query_tokens(state_of([BOS, SEEN, SEEN, ARM, TEXT, ACT, STOP])).tolist() == [[3, 4, 5]]
    assert query_tokens(state_of([TEXT, SEEN, ACT])).tolist() == [[0, 2]]


def test_a_row_with_fewer_query_tokens_is_filled_up_with_others() -> None:
    state = state_of([BOS, SEEN, ARM, TEXT, TEXT, ACT], [BOS, SEEN, ARM, TEXT, PAD, ACT], masked=True)
    assert query_tokens(state).tolist() == [[2, 3, 4, 5], [0, 2, 3, 5]]


def test_features_by_hand() -> None:
    """Mean action token, mean proprio token, last text token: places 5 and 6, 2, and 4."""
    state = state_of([BOS, SEEN, ARM, TEXT, TEXT, ACT, ACT, STOP])
    assert features(state, NOTHING).tolist() == [[5.5, 55, 2, 20, 4, 40]]


def test_the_memory_follows_the_tokens_parts() -> None:
    state = state_of([ARM, ACT], [ACT, ARM])
    memory = torch.tensor([[0.5, 1.0], [-0.5, 0.0]])
    assert features(state, memory).tolist() == [[1, 10, 0, 0, 0, 0, 0.5, 1], [0, 0, 1, 10, 0, 0, -0.5, 0]]


def test_a_part_without_tokens_is_zero_and_padding_does_not_count() -> None:
    state, nothing = state_of([BOS, SEEN, TEXT, TEXT, ACT], [BOS, SEEN, TEXT, PAD, ACT], masked=True), torch.zeros(2, 0)
    assert features(state, nothing).tolist() == [[4, 40, 0, 0, 3, 30], [4, 40, 0, 0, 2, 20]]
    hidden_by_mask = state_of([BOS, TEXT, TEXT, ACT])
    hidden_by_mask.mask = torch.tensor([[True, True, False, True]])
    assert features(hidden_by_mask, NOTHING).tolist() == [[3, 30, 0, 0, 1, 10]]


def test_features_need_the_query_tokens_alone() -> None:
    state, memory = state_of([BOS, SEEN, ARM, TEXT, TEXT, ACT, ACT, STOP]), torch.rand(1, 4)
    before = features(state, memory)
    state.select(query_tokens(state))
    assert torch.equal(features(state, memory), before)


def test_each_kept_token_speaks_for_an_action() -> None:
    """Two tokens an action: all before them and the first one speak for the first; the others for their own."""
    layout = QueryLayout.of(state_of([BOS, SEEN, ARM, TEXT, ACT, ACT, ACT, ACT, STOP]), 2)
    assert layout.keep.tolist() == [[2, 3, 4, 5, 6, 7]]
    assert layout.slots.tolist() == [[0, 0, 0, 1, 1, 1]]


def test_the_same_tokens_take_over_the_last_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[LayerState]()

    def counted(state: LayerState) -> Tensor:
        asked.append(state)
        return query_tokens(state)

    monkeypatch.setattr(query_layout, "query_tokens", counted)
    last = LastLayout(1)
    first = last.of(state_of([BOS, ARM, TEXT, ACT]))
    moved_on = state_of([BOS, ARM, TEXT, ACT])
    moved_on.hidden = moved_on.hidden + 1
    assert last.of(moved_on) is first and len(asked) == 1
    assert last.of(state_of([BOS, ARM, ACT, ACT])) is not first and len(asked) == 2


ROWS = st.lists(st.sampled_from([SEEN, ARM, TEXT, ACT, PAD]), min_size=3, max_size=4)


@given(st.lists(st.tuples(ROWS, st.booleans(), st.sampled_from([torch.float32, torch.bfloat16])), max_size=6))
def test_a_layout_taken_over_is_the_one_worked_out_anew(
    passes: list[tuple[list[TokenKind], bool, torch.dtype]],
) -> None:
    last = LastLayout(2)
    for row, masked, dtype in passes:
        state = state_of(row, masked=masked)
        state.hidden = state.hidden.to(dtype)
        found, expected = last.of(state), QueryLayout.of(state, 2)
        assert torch.equal(found.keep, expected.keep) and torch.equal(found.slots, expected.slots)
        assert found.weights.dtype == dtype and torch.equal(found.weights, expected.weights)
