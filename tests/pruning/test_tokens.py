from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dyslctl.engine import RUN, FullSchedule, LayerSchedule, Step, forward
from dyslctl.errors import ConfigError
from dyslctl.pruning.tokens import budget, prune, retain, snapped, top, views
from dyslctl.types import LayerState, TokenKind

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach

KINDS = [1, 16, 16, 16, 16, 2, 17, 17, 3, 3, 4, 4, 5]
"""BOS, four tokens of one view, proprio, two of another, text, action, stop."""
ANY_KINDS = st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 16, 17, 18]), min_size=1, max_size=30).map(lambda k: [*k, 16])


def state(kinds: list[int] = KINDS, batch: int = 1) -> LayerState:
    count = len(kinds)
    hidden = torch.arange(batch * count, dtype=torch.float32).reshape(batch, count, 1)
    return LayerState(hidden, torch.arange(count).expand(batch, -1), torch.tensor(kinds).expand(batch, -1))


def last(hidden: Tensor, count: int) -> Tensor:
    return torch.arange(len(hidden)).flip(0)[:count]


def test_budgets_round_half_up_and_leave_one() -> None:
    assert [budget(share, 4) for share in (0.01, 0.3, 0.374, 0.375, 0.5, 1.0)] == [1, 1, 1, 2, 2, 4]


def test_budgets_snap_upwards() -> None:
    assert [snapped(count, 10, 4) for count in (0, 1, 4, 5, 8, 9, 10)] == [4, 4, 4, 8, 8, 10, 10]
    assert [budget(share, 256, 32) for share in (0.01, 0.3, 0.5, 0.51)] == [32, 96, 128, 160]


@pytest.mark.parametrize("scores", [[0.5, 2.0, 0.5, 2.0, 1.0], [0.5, float("nan"), 0.5, float("inf"), 1.0]])
def test_the_largest_come_first_and_of_equals_the_first(scores: list[float]) -> None:
    assert top(torch.tensor(scores), 4).tolist() == [1, 3, 4, 0]
    assert top(torch.ones(500), 3).tolist() == [0, 1, 2], "more than the size up to which any sort is stable"


def test_views_are_found_by_kind() -> None:
    assert [view.tolist() for view in views(torch.tensor(KINDS))] == [[1, 2, 3, 4], [6, 7]]


def test_each_view_keeps_its_share_and_everything_else_stays_where_it_was() -> None:
    pruned = state()
    prune(pruned, 0.5, last)
    assert pruned.positions.tolist() == [[0, 3, 4, 5, 7, 8, 9, 10, 11, 12]]
    assert pruned.kinds[0].tolist() == [KINDS[i] for i in pruned.positions[0]]
    assert pruned.hidden[0, :, 0].tolist() == pruned.positions[0].tolist()


def test_what_is_known_of_the_tokens_decides() -> None:
    """Scores 9, 1, 5, 7 and 0, 3: two of four and one of two stay; with buckets of 3 it is three, and both."""
    known = torch.tensor([[99, 9, 1, 5, 7, 99, 0, 3, 99, 99, 99, 99, 99.0]])
    pruned, snap = state(), state()
    prune(pruned, 0.5, top, known)
    prune(snap, 0.5, top, known, bucket=3)
    assert pruned.positions.tolist() == [[0, 1, 4, 5, 7, 8, 9, 10, 11, 12]]
    assert snap.positions.tolist() == [[0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]]


def test_a_selection_outlives_another() -> None:
    """Positions mean the same after tokens were gathered; those that are gone count for nothing."""
    pruned = state()
    retain(pruned, [torch.tensor([7, 4, 1])])
    retain(pruned, [torch.tensor([2, 4, 3])])
    assert pruned.positions.tolist() == [[0, 4, 5, 8, 9, 10, 11, 12]]


@given(ANY_KINDS, st.floats(0.01, 1), st.integers(1, 4))
def test_only_visual_tokens_go_and_the_order_stays(kinds: list[int], share: float, bucket: int) -> None:
    pruned = state(kinds, batch=2)
    prune(pruned, share, last, bucket=bucket)
    kept = pruned.positions[0].tolist()
    assert kept == sorted(set(kept)) and torch.equal(pruned.positions[0], pruned.positions[1])
    assert {i for i, kind in enumerate(kinds) if kind < TokenKind.VISION} <= set(kept), "the last prompt token too"
    for kind in {kind for kind in kinds if kind >= TokenKind.VISION}:
        assert sum(kinds[i] == kind for i in kept) == budget(share, kinds.count(kind), bucket)


@given(ANY_KINDS, st.sets(st.integers(0, 30)))
def test_a_selection_keeps_what_it_names_and_no_other_visual_token(kinds: list[int], named: set[int]) -> None:
    pruned = state(kinds)
    retain(pruned, [torch.tensor(sorted(named, reverse=True), dtype=torch.int64)])
    expected = [i for i, kind in enumerate(kinds) if kind < TokenKind.VISION or i in named]
    assert pruned.positions[0].tolist() == expected


@pytest.mark.parametrize(
    "everything",
    [lambda s: prune(s, 1.0, last), lambda s: retain(s, [torch.arange(13)]), lambda s: prune(s, 0.9, last)],
)
def test_a_whole_budget_touches_nothing(everything: Callable[[LayerState], None]) -> None:
    """Nine tenths of four are four, and of two, two."""
    before, after = state(), state()
    after.context = "tables"
    everything(after)
    assert after.context == "tables" and torch.equal(after.hidden, before.hidden)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_layers_that_see_no_visual_tokens_are_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="expected visual tokens to prune, found none") as caught:
        prune(state([1, 3, 4]), share, last)
    assert "openvla-oft" in str(caught.value.hint)


class At3(LayerSchedule):
    """Before layer 3 go on without some patches: gathered, or hidden from all others by a mask."""

    def __init__(self, gather: bool) -> None:
        self.gather = gather

    def before(self, layer: int, state: LayerState) -> Step:
        if layer == 3 and self.gather:
            retain(state, [torch.tensor([2, 4])])
        elif layer == 3:
            state.mask = ~torch.isin(state.positions, torch.tensor([1, 3])) & (state.kinds != TokenKind.PAD)
            state.context = None
        return RUN


def test_gathering_equals_masking(tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]) -> None:
    backbone, suite = tiny_backbone(), tiny_suite()
    inputs = backbone.encode([suite.make().reset(suite.episodes("test", 1)[0])])
    gathered, masked, full = LayerState.of(inputs), LayerState.of(inputs), LayerState.of(inputs)
    forward(backbone, gathered, At3(gather=True))
    forward(backbone, masked, At3(gather=False))
    forward(backbone, full, FullSchedule())
    real = gathered.kinds[0] != TokenKind.PAD
    kept = gathered.positions[0][real]
    torch.testing.assert_close(gathered.hidden[0, real], masked.hidden[0, kept], atol=1e-5, rtol=0)
    assert float((full.hidden[0, kept] - masked.hidden[0, kept]).abs().max()) > 1e-4, "or the test could not fail"
    torch.testing.assert_close(backbone.predict(gathered), backbone.predict(masked), atol=1e-5, rtol=0)
