from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dyslctl.types import ActionChunk, LayerInputs, LayerState, Ran, TokenKind, joined_history


def make_state(mask: torch.Tensor | None = None) -> LayerState:
    hidden = torch.arange(2 * 4 * 3, dtype=torch.float32).view(2, 4, 3)
    positions = torch.tensor([[10, 11, 12, 13], [20, 21, 22, 23]])
    kinds = torch.full((2, 4), TokenKind.TEXT)
    return LayerState.of(LayerInputs(hidden, positions, kinds, mask))


def test_head_of_a_chunk_keeps_both_spaces() -> None:
    chunk = ActionChunk(np.arange(8.0).reshape(4, 2), -np.arange(8.0).reshape(4, 2))
    head = chunk.head(3)
    assert (len(chunk), len(head)) == (4, 3)
    assert head.actions[-1].tolist() == [4, 5]
    assert head.normalized[-1].tolist() == [-4, -5]


def test_view_v_of_the_cameras_counts_up_from_vision() -> None:
    assert max(kind for kind in TokenKind if kind != TokenKind.VISION) < TokenKind.VISION


def test_select_keeps_each_rows_own_tokens_with_their_positions() -> None:
    mask = torch.tensor([[True, True, False, True], [True, True, True, True]])
    state = make_state(mask)
    state.context = "stale"
    state.select(torch.tensor([[0, 2], [1, 3]]))
    assert state.positions.tolist() == [[10, 12], [21, 23]]
    assert state.hidden[0, 1].tolist() == [6, 7, 8]
    assert state.hidden[1, 0].tolist() == [15, 16, 17]
    assert state.mask is not None and state.mask.tolist() == [[True, False], [True, True]]
    assert state.context is None


def test_a_fork_stays_where_it_was() -> None:
    state = make_state()
    fork = state.fork()
    state.select(torch.tensor([[0], [0]]))
    state.hidden = state.hidden + 1
    assert fork.hidden.shape == (2, 4, 3)
    assert fork.hidden[0, 0].tolist() == [0, 1, 2]


def test_what_is_no_layer_is_remembered_in_order() -> None:
    def double(hidden: Tensor) -> Tensor:
        return 2 * hidden

    state = make_state()
    ran = Ran(0, (state.hidden,))
    state.past = (ran,)
    fork = state.fork()
    state.apply(double)
    assert state.hidden[0, 0].tolist() == [0, 2, 4]
    assert state.past == (ran, double)
    assert (fork.past, fork.hidden[0, 0].tolist()) == ((ran,), [0, 1, 2])


def test_tokens_that_are_left_behind_stay_in_the_past() -> None:
    state = make_state()
    ran = Ran(0, (state.hidden,))
    state.past = (ran,)
    state.select(torch.tensor([[0], [0]]))
    assert state.past == (ran,)


def test_a_layers_rows_and_back() -> None:
    ran = Ran(3, (torch.arange(4.0).view(2, 2), torch.arange(2)))
    first, second = ran.rows()
    assert (first.layer, first.kept[0].tolist(), second.kept[0].tolist()) == (3, [[0, 1]], [[2, 3]])
    again = Ran.join([first, second])
    assert again.layer == 3 and all(map(torch.equal, again.kept, ran.kept))


def test_padding_is_counted_of_the_sample_that_has_most() -> None:
    places = torch.arange(4).expand(2, -1)
    state = LayerState(torch.zeros(2, 4, 1), places, places)
    assert state.padding == 0
    state.mask = torch.tensor([[True, True, False, False], [True, True, True, False]])
    assert state.padding == 2


def test_where_nothing_is_known_nothing_is_remembered() -> None:
    assert joined_history([(2, None), (1, None)]) is None
    joined = joined_history([(2, None), (1, torch.tensor([[1.0, 5.0]]))])
    assert joined is not None and joined.tolist() == [[0, 0], [0, 0], [1, 5]]


def test_samples_stand_alone_without_their_padding() -> None:
    mask = torch.tensor([[True, True, False, True], [True, True, True, True]])
    inputs = LayerInputs(
        hidden=torch.arange(24.0).view(2, 4, 3),
        positions=torch.tensor([[10, 11, 12, 13], [20, 21, 22, 23]]),
        kinds=torch.full((2, 4), TokenKind.TEXT),
        mask=mask,
        conditioning={"latents": torch.tensor([[5.0], [6.0]])},
        history=torch.tensor([[7.0, 8.0], [9.0, 10.0]]),
    )
    first, second = inputs.samples()
    assert (first.positions.tolist(), second.positions.tolist()) == ([[10, 11, 13]], [[20, 21, 22, 23]])
    assert first.hidden[0, :, 0].tolist() == [0.0, 3.0, 9.0] and first.mask is None and second.mask is None
    assert [state.conditioning["latents"].tolist() for state in (first, second)] == [[[5.0]], [[6.0]]]
    assert first.history is not None and first.history.tolist() == [[7.0, 8.0]]
