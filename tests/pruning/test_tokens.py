from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dyslctl.errors import ConfigError
from dyslctl.pruning.tokens import budget, check_share, prune, views
from dyslctl.types import LayerState, TokenKind

KINDS = [1, 16, 16, 16, 16, 2, 17, 17, 3, 3, 4, 4, 5]
"""BOS, four tokens of one view, proprio, two of another, text, action, stop."""


def state(kinds: list[int] = KINDS, batch: int = 1) -> LayerState:
    count = len(kinds)
    hidden = torch.arange(batch * count, dtype=torch.float32).reshape(batch, count, 1)
    return LayerState(hidden, torch.arange(count).expand(batch, -1), torch.tensor(kinds).expand(batch, -1))


def last(hidden: Tensor, count: int) -> Tensor:
    return torch.arange(len(hidden)).flip(0)[:count]


def test_budgets_round_half_up_and_leave_one() -> None:
    assert [budget(share, 4) for share in (0.01, 0.3, 0.374, 0.375, 0.5, 1.0)] == [1, 1, 1, 2, 2, 4]


def test_views_are_found_by_kind() -> None:
    assert [view.tolist() for view in views(torch.tensor(KINDS))] == [[1, 2, 3, 4], [6, 7]]


def test_each_view_keeps_its_share_and_everything_else_stays_where_it_was() -> None:
    pruned = state()
    prune(pruned, 0.5, last)
    assert pruned.positions.tolist() == [[0, 3, 4, 5, 7, 8, 9, 10, 11, 12]]
    assert pruned.kinds[0].tolist() == [KINDS[i] for i in pruned.positions[0]]
    assert pruned.hidden[0, :, 0].tolist() == pruned.positions[0].tolist()


@given(
    st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 16, 17, 18]), min_size=1, max_size=30).map(lambda kinds: [*kinds, 16]),
    st.floats(0.01, 1),
)
def test_only_visual_tokens_go_and_the_order_stays(kinds: list[int], share: float) -> None:
    pruned = state(kinds, batch=2)
    prune(pruned, share, last)
    kept = pruned.positions[0].tolist()
    assert kept == sorted(set(kept)) and torch.equal(pruned.positions[0], pruned.positions[1])
    assert {i for i, kind in enumerate(kinds) if kind < TokenKind.VISION} <= set(kept)
    for kind in {kind for kind in kinds if kind >= TokenKind.VISION}:
        assert sum(kinds[i] == kind for i in kept) == budget(share, kinds.count(kind))


def test_a_whole_budget_touches_nothing() -> None:
    before, after = state(), state()
    after.context = "tables"
    prune(after, 1.0, last)
    assert after.context == "tables" and torch.equal(after.hidden, before.hidden)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_layers_that_see_no_visual_tokens_are_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="expected visual tokens to prune, found none") as caught:
        prune(state([1, 3, 4]), share, last)
    assert "openvla-oft" in str(caught.value.hint)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.01, float("nan")])
def test_a_share_is_above_0_and_at_most_1(share: float) -> None:
    with pytest.raises(ConfigError, match="expected a share of visual tokens above 0 and at most 1"):
        check_share(share)
