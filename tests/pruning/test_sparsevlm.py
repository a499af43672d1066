from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dyslctl.engine import FullSchedule, forward
from dyslctl.pruning import sparsevlm
from dyslctl.pruning.settings import PruningSettings
from dyslctl.pruning.sparsevlm import SparseVLMSchedule, clusters, raters
from dyslctl.types import LayerState, TokenKind

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach

KINDS = [1, 16, 16, 3, 3, 3, 4]


def state(kinds: list[int], hidden: Tensor) -> LayerState:
    return LayerState(hidden[None], torch.arange(len(kinds))[None], torch.tensor([kinds]))


def test_raters_by_hand() -> None:
    """The picture is [1, 0] and [2, 0]; of the words [3, 0], [0, 9] and [0, 0] it is about the first."""
    hidden = torch.tensor([[0.0, 9], [1, 0], [2, 0], [3, 0], [0, 9], [0, 0], [50, 50]])
    assert raters(state(KINDS, hidden))[0].int().tolist() == [0, 0, 0, 1, 0, 0, 0]


def test_words_that_are_all_alike_are_all_raters() -> None:
    assert raters(state(KINDS, torch.ones(7, 2)))[0].int().tolist() == [0, 0, 0, 1, 1, 1, 0]


def test_padding_rates_nothing() -> None:
    one = state(KINDS, torch.ones(7, 2))
    one.mask = torch.tensor([[True] * 5 + [False, True]])
    assert raters(one)[0].int().tolist() == [0, 0, 0, 1, 1, 0, 0]


def test_clusters_by_hand() -> None:
    """Six tokens near 0, the densest in their middle, and six near 10: two centres, and each token has the near one."""
    features = torch.tensor([[0.0], [0.2], [0.3], [0.4], [0.6], [1.0], [10.0], [10.2], [10.3], [10.5], [10.6], [13.0]])
    centres, belongs = clusters(features, 2)
    assert belongs.tolist() in ([0] * 6 + [1] * 6, [1] * 6 + [0] * 6)
    assert sorted(centres.tolist()) == [2, 8]


@given(st.integers(1, 25), st.integers(0, 99), st.data())
def test_every_token_belongs_to_a_centre_and_a_centre_to_itself(tokens: int, seed: int, data: st.DataObject) -> None:
    features = torch.randn(tokens, 3, generator=torch.Generator().manual_seed(seed))
    count = data.draw(st.integers(1, tokens))
    centres, belongs = clusters(features, count)
    assert len(set(centres.tolist())) == count
    assert set(belongs.tolist()) == set(range(count))
    assert belongs[centres].tolist() == list(range(count))


class Still:
    """32 layers that change nothing; the prompt attends to a token the more the later it stands."""

    spec: Any = SimpleNamespace(num_layers=32)

    def __init__(self) -> None:
        self.asked: list[tuple[int, list[int]]] = []

    def run_layer(self, layer: int, state: LayerState) -> Tensor:
        return state.hidden.clone()

    def rows(self, layer: int, state: LayerState, queries: Tensor) -> Tensor:
        self.asked.append((layer, state.positions[0, queries[0]].tolist()))
        return state.positions.float()[:, None, None].expand(-1, 1, queries.shape[1], -1)


def test_three_stages_by_hand() -> None:
    """Of 64 tokens stay 32, 16 and 8, and of those that go each time a merged few."""
    kinds = [1, *[16] * 64, 3, 3, 4]
    hidden = torch.zeros(68, 2)
    hidden[1:65, 0], hidden[65] = torch.arange(64) / 10, torch.tensor([9.0, 0])
    layers, seen = Still(), state(kinds, hidden)
    trace = forward(layers, seen, SparseVLMSchedule(layers.rows, PruningSettings(keep=1 / 8), 32))
    assert layers.asked == [(2, [65]), (6, [65]), (15, [65])]
    # 32 go, 9 are merged into one; of 33 then 17 go, 5 into one; of 17 then 9 go, 2 into one
    assert trace.tokens == [68] * 3 + [4 + 33] * 4 + [4 + 17] * 9 + [4 + 9] * 16
    kept = seen.positions[0]
    assert kept[kept >= 65].tolist() == [65, 66, 67] and kept[-11:-3].tolist() == list(range(57, 65))


def test_a_merged_token_is_the_mean_of_its_cluster() -> None:
    """Of ten tokens five stay; the other five are merged where the densest stands.

    3.0 is: its squared distances are 4, 1, .25, 0 and 9, together less than those of 2.5, which are 15.
    """
    kinds = [1, *[16] * 10, 3, 4]
    hidden = torch.zeros(13, 1)
    hidden[1:6, 0] = torch.tensor([1.0, 2.0, 2.5, 3.0, 6.0])
    layers, seen = Still(), state(kinds, hidden)
    before = seen.hidden
    settings = PruningSettings(keep=0.5, recycled=1.0)
    schedule = SparseVLMSchedule(layers.rows, settings, 32)
    schedule._shares = {1: 0.5}
    forward(layers, seen, schedule)
    assert seen.positions[0].tolist() == [0, 4, *range(6, 13)]
    assert seen.hidden[0, 1].item() == pytest.approx(14.5 / 5)
    assert torch.equal(before, hidden[None]), "the state before is not written to"


def test_nothing_is_recycled_if_told_so() -> None:
    kinds = [1, *[16] * 64, 3, 4]
    layers, seen = Still(), state(kinds, torch.randn(67, 2, generator=torch.Generator().manual_seed(0)))
    trace = forward(layers, seen, SparseVLMSchedule(layers.rows, PruningSettings(keep=1 / 8, recycled=0.0), 32))
    assert trace.tokens[-1] == 3 + 8


@pytest.mark.parametrize("keep", [0.25, 1.0])
def test_on_a_backbone(tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach], keep: float) -> None:
    backbone, suite = tiny_backbone(), tiny_suite()
    inputs = backbone.encode([suite.make().reset(suite.episodes("test", 1)[0])])
    pruned, full = LayerState.of(inputs), LayerState.of(inputs)
    forward(backbone, pruned, sparsevlm.schedule(backbone, PruningSettings(keep=keep)))
    forward(backbone, full, FullSchedule())
    assert torch.equal(pruned.hidden, full.hidden) == (keep == 1.0)
    assert sum(kind >= TokenKind.VISION for kind in pruned.kinds[0].tolist()) == 4 * keep
