from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.errors import PluginError
from dyslctl.jobs.demo_draw import Draw
from dyslctl.suite import EpisodeSpec, Split

if TYPE_CHECKING:
    from tests.tiny import TinyReach


def play(draw: Draw, failing: Sequence[int], order: random.Random) -> dict[int, bool]:
    """Try what is missing, in random order and with interruptions, until nothing is."""
    solved: dict[int, bool] = {}
    while specs := draw.missing(solved):
        for spec in order.sample(specs, order.randint(1, len(specs))):
            solved[spec.index] = spec.index not in failing
    return solved


def test_shares_go_round(tiny_suite: type[TinyReach]) -> None:
    assert Draw(tiny_suite(), "train", 5).shares == {"reach_red": 3, "reach_blue": 2}
    assert Draw(tiny_suite(), "train", 1).shares == {"reach_red": 1, "reach_blue": 0}


def test_a_failure_is_replaced_by_the_next_state_of_its_task(tiny_suite: type[TinyReach]) -> None:
    draw = Draw(tiny_suite(), "train", 4)
    assert [spec.index for spec in draw.missing({})] == [0, 2, 1, 3]
    assert [spec.index for spec in draw.missing({0: True, 1: False, 2: True, 3: True})] == [5]
    solved = {0: True, 1: False, 2: True, 3: True, 5: True}
    assert draw.missing(solved) == []
    assert draw.kept(solved) == [0, 2, 3, 5]
    assert sorted(spec.index for spec in draw.tried(solved)) == [0, 1, 2, 3, 5]


def test_what_a_larger_draw_had_tried_is_left_out(tiny_suite: type[TinyReach]) -> None:
    solved = dict.fromkeys(range(6), True)
    assert Draw(tiny_suite(), "train", 3).kept(solved) == [0, 1, 2]


@given(st.integers(1, 12), st.sets(st.integers(0, 60), max_size=10), st.randoms(use_true_random=False))
def test_the_order_of_play_changes_nothing(
    tiny_suite: type[TinyReach], episodes: int, failing: set[int], order: random.Random
) -> None:
    draw = Draw(tiny_suite(), "train", episodes)
    try:
        solved = play(draw, sorted(failing), order)
    except PluginError:
        return  # Too many of the first states fail.
    for task, share in draw.shares.items():
        states = [spec.index for spec in tiny_suite().episodes("train", 200) if spec.task == task]
        expected = [index for index in states if index not in failing][:share]
        assert [index for index in draw.kept(solved) if index in states] == expected
        # Nothing was tried beyond the state that filled the share.
        assert [index for index in states if index in solved] == states[
            : states.index(expected[-1]) + 1 if share else 0
        ]


def test_an_expert_that_fails_too_often_ends_it(tiny_suite: type[TinyReach]) -> None:
    draw = Draw(tiny_suite(), "train", 3)
    assert [spec.index for spec in draw.missing(dict.fromkeys(range(0, 16, 2), False))] == [16, 18, 1]
    with pytest.raises(PluginError, match="tiny_reach: the expert solved 1 of 10 initial states of reach_red"):
        draw.missing({4: True, **dict.fromkeys((0, 2, *range(6, 20, 2)), False)})


def test_the_states_of_a_task_may_run_out(tiny_suite: type[TinyReach]) -> None:
    class Short(tiny_suite):  # type: ignore[misc, valid-type]
        def episodes(self, split: Split, count: int) -> list[EpisodeSpec]:
            known: list[EpisodeSpec] = super().episodes(split, 6)
            return known[:count]

    draw = Draw(Short(), "train", 4)
    assert [spec.index for spec in draw.missing({0: False, 2: True})] == [4, 1, 3]
    with pytest.raises(PluginError, match="the expert solved 1 of 3 initial states of reach_red"):
        draw.missing({0: False, 2: True, 4: False})
