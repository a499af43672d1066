from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from dyslctl.engine import FullSchedule, forward
from dyslctl.errors import ConfigError
from dyslctl.pruning import fastv
from dyslctl.pruning.fastv import FastVSchedule
from dyslctl.pruning.settings import PruningSettings
from dyslctl.types import LayerState

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach


@pytest.fixture
def inputs(tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]) -> tuple[TinyBackbone, LayerState]:
    backbone, suite = tiny_backbone(), tiny_suite()
    return backbone, LayerState.of(backbone.encode([suite.make().reset(suite.episodes("test", 1)[0])]))


def test_the_most_attended_stay_from_layer_k_on(inputs: tuple[TinyBackbone, LayerState]) -> None:
    """Patches are tokens 1 to 4. They get 3, 9, 9 and 1 of the first answering token and 2, 0, 0, 8 of the others."""
    backbone, state = inputs
    asked: list[tuple[int, list[int]]] = []

    def rows(layer: int, state: LayerState, queries: Tensor) -> Tensor:
        asked.append((layer, queries[0].tolist()))
        made = torch.zeros(1, 1, queries.shape[1], state.hidden.shape[1])
        made[..., 1:5] = torch.tensor([2.0, 0, 0, 8])
        made[:, :, 0, 1:5] = torch.tensor([3.0, 90, 90, 1])
        return made

    trace = forward(backbone, state, FastVSchedule(rows, PruningSettings(keep=0.5, after_layers=3)))
    assert trace.tokens == [15] * 3 + [13] * 5
    assert asked == [(2, [7, 10, 11, 12, 13])], "the last word, and the four actions; once"
    assert state.positions[0, :4].tolist() == [0, 2, 3, 5], "18 a token, equal, against 2.2 and 6.6"


def test_a_whole_share_is_the_full_model_and_looks_at_nothing(inputs: tuple[TinyBackbone, LayerState]) -> None:
    def refuse(layer: int, state: LayerState, queries: Tensor) -> Tensor:
        raise AssertionError

    backbone, state = inputs
    full = state.fork()
    forward(backbone, full, FullSchedule())
    forward(backbone, state, FastVSchedule(refuse, PruningSettings(keep=1.0)))
    assert torch.equal(state.hidden, full.hidden)


def test_it_is_bound_to_the_backbones_own_attention(inputs: tuple[TinyBackbone, LayerState]) -> None:
    backbone, state = inputs
    made = fastv.schedule(backbone, PruningSettings(keep=0.25))
    assert forward(backbone, state, made).tokens == [15] * 2 + [12] * 6


def test_a_backbone_that_shows_no_attention_is_refused(
    tiny_backbone: type[TinyBackbone], inputs: tuple[TinyBackbone, LayerState]
) -> None:
    from dyslctl.backbone import Backbone

    class Blind(tiny_backbone):  # type: ignore[misc, valid-type]
        attention_rows = Backbone.attention_rows

    with pytest.raises(ConfigError, match="Blind shows no attention to prune tokens by: expected Backbone"):
        forward(Blind(), inputs[1], fastv.schedule(Blind(), PruningSettings()))


def test_there_must_be_a_layer_left(inputs: tuple[TinyBackbone, LayerState]) -> None:
    with pytest.raises(ConfigError, match="prunes after 8 layers: expected fewer than the 8"):
        fastv.schedule(inputs[0], PruningSettings(after_layers=8))
