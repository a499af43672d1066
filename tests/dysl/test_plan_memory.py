from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.dysl.plan_memory import PlanMemory, action_slots, memory_size, remember
from dyslctl.types import LayerState, TokenKind

BOS, SEEN, ARM, TEXT, ACT, STOP = (
    *(TokenKind.BOS, TokenKind.VISION, TokenKind.PROPRIO),
    *(TokenKind.TEXT, TokenKind.ACTION, TokenKind.STOP),
)
CHUNK = np.array([[0.5, -1.0], [0.25, 1.0], [0.0, 1.0]], np.float32)
"""Three actions of a pose and a gripper."""


def slots(*rows: list[TokenKind], count: int) -> list[list[int]]:
    kinds = torch.tensor([[int(kind) for kind in row] for row in rows])
    places = torch.arange(kinds.shape[1]).expand(len(rows), -1)
    return action_slots(LayerState(torch.zeros(*kinds.shape, 1), places, kinds), count).tolist()


def test_a_chunk_is_remembered_action_by_action_and_marked() -> None:
    assert memory_size(3, 2) == 7
    remembered = remember(CHUNK, 7)
    assert remembered.dtype == np.float32
    assert remembered.tolist() == [0.5, -1, 0.25, 1, 0, 1, 1]


def test_nothing_yet_differs_from_a_chunk_of_zeros() -> None:
    assert remember(None, 7).tolist() == [0] * 7
    assert remember(np.zeros((3, 2), np.float32), 7).tolist() == [0] * 6 + [1]


def test_a_chunk_of_another_size_is_no_memory() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        remember(CHUNK[:2], 7)


def test_an_episode_begins_empty_and_forgets_at_reset() -> None:
    memory = PlanMemory(7, like=torch.zeros(1, dtype=torch.float64))
    assert memory.value.shape == (1, 7) and memory.value.dtype == torch.float64
    assert not memory.value.any()
    memory.commit(CHUNK)
    assert memory.value.tolist() == [[0.5, -1, 0.25, 1, 0, 1, 1]]
    memory.commit(2 * CHUNK)
    assert memory.value.tolist() == [[1, -2, 0.5, 2, 0, 2, 1]]
    memory.reset()
    assert not memory.value.any()


def test_the_memory_is_a_copy() -> None:
    memory, chunk = PlanMemory(7, like=torch.zeros(1)), CHUNK.copy()
    memory.commit(chunk)
    chunk[:] = 9
    assert memory.value.tolist() == [[0.5, -1, 0.25, 1, 0, 1, 1]]


def test_a_head_that_reads_one_token_early_finds_each_action_in_its_slot() -> None:
    """OFT: N A placeholders; number ``A n + j`` is read from the token before it, and belongs to action ``n``."""
    chunk, dims = 8, 7
    (found,) = slots([BOS, SEEN, ARM, TEXT, *[ACT] * (chunk * dims), STOP], count=chunk)
    first = 4
    assert found[first - 1 : first - 1 + chunk * dims] == [n for n in range(chunk) for _ in range(dims)]
    assert found[: first - 1] == [0, 0, 0] and found[-2:] == [7, 7]


def test_one_token_an_action() -> None:
    assert slots([BOS, TEXT, ACT, ACT, ACT], count=3) == [[0, 0, 1, 2, 2]]


def test_without_action_tokens_all_speak_for_the_first_action() -> None:
    assert slots([BOS, SEEN, ARM, TEXT], count=5) == [[0, 0, 0, 0]]


def test_more_slots_than_tokens() -> None:
    assert slots([TEXT, ACT, ACT], count=8) == [[0, 1, 2]]


def test_every_row_counts_its_own_tokens() -> None:
    assert slots([TEXT, ACT, ACT, ACT, ACT], [TEXT, TEXT, TEXT, ACT, ACT], count=2) == [
        [0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1],
    ]


@given(st.integers(0, 6), st.integers(0, 40), st.integers(1, 9))
def test_slots_never_fall_and_stay_in_the_chunk(before: int, actions: int, count: int) -> None:
    (found,) = slots([BOS, *[TEXT] * before, *[ACT] * actions], count=count)
    assert found == sorted(found) and found[0] == 0 and found[-1] < count
    assert actions < count or found[-1] == count - 1
