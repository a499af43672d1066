from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.engine import FullSchedule, forward
from dyslctl.pruning.divprune import DivPruneSchedule, distances, most_diverse
from dyslctl.pruning.settings import PruningSettings
from dyslctl.types import LayerState, TokenKind

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach


def at(*degrees: float) -> torch.Tensor:
    """Unit vectors in a plane, of different lengths: only their directions count."""
    turns = [math.radians(d) for d in degrees]
    return torch.tensor([[(i + 1) * math.cos(t), (i + 1) * math.sin(t)] for i, t in enumerate(turns)])


def test_distances_by_hand() -> None:
    expected = [[0, 1, 2], [1, 0, 1], [2, 1, 0]]
    assert torch.allclose(distances(at(0, 90, 180)), torch.tensor(expected, dtype=torch.float32), atol=1e-6)


def test_the_choice_by_hand() -> None:
    """Nearest neighbours lie .015, .015, .826 and 1 apart; then it is 0 (2 from 180), then 90, and the twin last."""
    assert [most_diverse(at(0, 10, 90, 180), k).tolist() for k in (1, 2, 3, 4)] == [
        [3],
        [3, 0],
        [3, 0, 2],
        [3, 0, 2, 1],
    ]


def test_of_equals_the_first_is_taken() -> None:
    assert most_diverse(torch.ones(5, 3), 3).tolist() == [0, 1, 2]
    assert most_diverse(torch.ones(1, 3), 1).tolist() == [0]


@given(st.integers(1, 12), st.integers(0, 999), st.data())
def test_it_is_the_greedy_solution(count: int, seed: int, data: st.DataObject) -> None:
    """Step by step against the definition, and a longer choice goes on where a shorter one ended."""
    features = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    k = data.draw(st.integers(1, count))
    chosen, apart = most_diverse(features, k).tolist(), distances(features)
    assert len(set(chosen)) == k and chosen == most_diverse(features, count).tolist()[:k]
    for n in range(1, k):
        left = [i for i in range(count) if i not in chosen[:n]]
        nearest = {i: float(apart[i, chosen[:n]].min()) for i in left}
        assert nearest[chosen[n]] == pytest.approx(max(nearest.values()), abs=1e-5)


def first_state(backbone: TinyBackbone, suite: TinyReach) -> LayerState:
    observation = suite.make().reset(suite.episodes("test", 1)[0])
    return LayerState.of(backbone.encode([observation]))


def test_a_whole_share_is_the_full_model_bit_for_bit(
    tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]
) -> None:
    backbone = tiny_backbone()
    full, pruned = first_state(backbone, tiny_suite()), first_state(backbone, tiny_suite())
    traces = (
        forward(backbone, full, FullSchedule()),
        forward(backbone, pruned, DivPruneSchedule(PruningSettings(keep=1.0))),
    )
    assert torch.equal(full.hidden, pruned.hidden) and traces[0].tokens == traces[1].tokens == [15] * 8


def test_tokens_that_go_are_as_if_never_seen(tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]) -> None:
    """Gathering equals masking: a mask over the dropped tokens gives the others the same states."""
    backbone = tiny_backbone()
    masked, pruned = first_state(backbone, tiny_suite()), first_state(backbone, tiny_suite())
    trace = forward(backbone, pruned, DivPruneSchedule(PruningSettings(keep=0.5)))
    kept = pruned.positions[0]
    masked.mask = (masked.kinds != TokenKind.PAD) & torch.isin(masked.positions, kept)
    forward(backbone, masked, FullSchedule())
    assert trace.tokens == [13] * 8 and trace.layers_run == list(range(8))
    real = pruned.kinds[0] != TokenKind.PAD
    assert torch.allclose(masked.hidden[0, kept][real], pruned.hidden[0, real], atol=1e-5)
