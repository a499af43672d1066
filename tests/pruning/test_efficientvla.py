from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dyslctl.engine import FullSchedule, forward
from dyslctl.errors import ConfigError
from dyslctl.pruning.efficientvla import EfficientVLASchedule, key_and_diverse, least_important
from dyslctl.pruning.settings import PruningSettings
from dyslctl.types import LayerState

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach

SIMILARITY = (0.1, 0.9, 0.8, 0.5, 0.7, 0.8, 0.6, 0.2)


@pytest.fixture
def inputs(tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]) -> tuple[TinyBackbone, LayerState]:
    backbone, suite = tiny_backbone(), tiny_suite()
    return backbone, LayerState.of(backbone.encode([suite.make().reset(suite.episodes("test", 1)[0])]))


def test_the_least_important_layers_by_hand() -> None:
    """Four of 32 are one of eight; two of eight are 1, and 2 before its equal 5."""
    assert least_important(SIMILARITY, 4) == (1,)
    assert least_important(SIMILARITY, 8) == (1, 2)
    assert least_important(SIMILARITY, 16) == (1, 2, 4, 5)
    assert least_important(SIMILARITY, 0) == ()


def test_the_choice_by_hand() -> None:
    """16 tokens, so one key token; of five wanted one is key, two more are relevant, two are unlike the key one."""
    relevance = torch.arange(16.0)
    features = torch.ones(16, 2)
    features[3], features[6], features[14] = torch.tensor([[-1.0, -1], [1, -1], [1, -1]])
    # 15 is the key token; 14 and 13 are relevant; 3 is opposite to it, 6 orthogonal; 14 would be, but is in already
    assert key_and_diverse(relevance, features, 5).tolist() == [15, 14, 13, 3, 6]
    assert key_and_diverse(relevance, features, 1).tolist() == [15]


@given(st.integers(1, 80), st.integers(0, 99), st.data())
def test_as_many_as_wanted_each_once(tokens: int, seed: int, data: st.DataObject) -> None:
    wanted, random = data.draw(st.integers(1, tokens)), torch.Generator().manual_seed(seed)
    relevance, features = torch.rand(tokens, generator=random), torch.randn(tokens, 3, generator=random)
    chosen = key_and_diverse(relevance, features, wanted).tolist()
    assert len(chosen) == len(set(chosen)) == wanted
    assert chosen[0] == int(relevance.argmax())


def test_layers_are_left_out_and_tokens_after_two(inputs: tuple[TinyBackbone, LayerState]) -> None:
    """The second of the early layers never runs, and is asked for its attention all the same."""
    backbone, state = inputs
    settings = PruningSettings(dropped_layers=8, keep=0.5)
    trace = forward(backbone, state, EfficientVLASchedule(backbone.attention_rows, settings, SIMILARITY))
    assert trace.layers_run == [0, 3, 4, 5, 6, 7] and trace.jumps == [(1, 2), (2, 3)]
    assert trace.tokens == [15] + [13] * 5


def test_the_most_attended_token_stays(inputs: tuple[TinyBackbone, LayerState]) -> None:
    """Of patches 1 to 4 the prompt attends to 3 alone; one of the others is the least like it."""
    backbone, state = inputs

    def rows(layer: int, state: LayerState, queries: Tensor) -> Tensor:
        assert layer == 1 and queries.tolist() == [[6, 7]]
        made = torch.zeros(1, 1, 2, 15)
        made[..., 3] = 1
        return made

    before = state.fork()
    forward(backbone, before, FullSchedule())
    settings = PruningSettings(dropped_layers=0, keep=0.25)
    forward(backbone, state, EfficientVLASchedule(rows, settings, SIMILARITY))
    assert state.positions[0, :3].tolist() == [0, 3, 5]


def test_with_everything_it_is_the_full_model_bit_for_bit(inputs: tuple[TinyBackbone, LayerState]) -> None:
    backbone, state = inputs
    full = state.fork()
    forward(backbone, full, FullSchedule())
    settings = PruningSettings(dropped_layers=0, keep=1.0)
    forward(backbone, state, EfficientVLASchedule(backbone.attention_rows, settings, SIMILARITY))
    assert torch.equal(state.hidden, full.hidden)


def test_a_layer_must_be_left(inputs: tuple[TinyBackbone, LayerState]) -> None:
    with pytest.raises(ConfigError, match="leaves none of 8 layers"):
        EfficientVLASchedule(inputs[0].attention_rows, PruningSettings(dropped_layers=32), SIMILARITY)


def test_so_must_one_that_sees_fewer_tokens(inputs: tuple[TinyBackbone, LayerState]) -> None:
    rows = inputs[0].attention_rows
    with pytest.raises(ConfigError, match="efficientvla prunes after 8 layers: expected fewer than the 8"):
        EfficientVLASchedule(rows, PruningSettings(after_layers=8), SIMILARITY)
    EfficientVLASchedule(rows, PruningSettings(after_layers=8, keep=1.0), SIMILARITY)
