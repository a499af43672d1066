"""The 34 tasks and what they presume and change."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest
from dyslctl_calvin.sequences import CONDITIONS, initial_states
from dyslctl_calvin.tasks import TASKS, successor
from hypothesis import given
from hypothesis import strategies as st

START = initial_states()[0]


def test_thirty_four_tasks_in_the_official_order() -> None:
    names = list(TASKS)
    assert len(names) == 34
    assert names[:3] == ["rotate_red_block_right", "rotate_red_block_left", "rotate_blue_block_right"]
    assert names[6] == "push_red_block_right" and names[12:16] == [
        "move_slider_left",
        "move_slider_right",
        "open_drawer",
        "close_drawer",
    ]
    assert names[16:19] == ["lift_red_block_table", "lift_red_block_slider", "lift_red_block_drawer"]
    assert names[25:] == [
        *("place_in_slider", "place_in_drawer", "stack_block", "unstack_block"),
        *("turn_on_lightbulb", "turn_off_lightbulb", "turn_on_led", "turn_off_led", "push_into_drawer"),
    ]


def test_words() -> None:
    """The hash is that of the benchmark's ``annotations/new_playtable_validation.yaml``, in the order of its tasks."""
    words = json.dumps([[name, task.words] for name, task in TASKS.items()])
    assert sha256(words.encode()).hexdigest() == "9a456ebdeddced0bbbf5e98039f1a02d571564365f1ad3f50678ac017920e5c9"
    assert len({task.words for task in TASKS.values()}) == 34
    assert TASKS["rotate_pink_block_left"].words == "take the pink block and rotate it to the left"
    assert TASKS["lift_blue_block_drawer"].words == "Take the blue block from the drawer"
    assert TASKS["turn_off_led"].words == "press the button to turn off the led light"


def test_categories() -> None:
    sizes: dict[str, int] = {}
    for task in TASKS.values():
        sizes[task.category] = sizes.get(task.category, 0) + 1
    assert sizes == {
        **{"move": 12, "slider": 2, "drawer": 2, "lift_table": 3, "lift_slider": 3, "lift_drawer": 3, "place": 2},
        **{"stack": 1, "unstack": 1, "light": 4, "push_into": 1},
    }


@pytest.mark.parametrize(
    ("before", "name", "after"),
    [
        ({}, "open_drawer", {"drawer": "open"}),
        ({}, "close_drawer", None),
        ({}, "turn_on_led", {"led": 1}),
        ({}, "rotate_red_block_left", {}),
        ({"red_block": "drawer"}, "rotate_red_block_left", None),
        ({}, "lift_red_block_table", {"red_block": "grasped", "grasped": 1}),
        ({"pink_block": "slider_left"}, "lift_pink_block_slider", {"pink_block": "grasped", "grasped": 1}),
        ({"pink_block": "slider_right"}, "lift_pink_block_slider", None),
        ({"pink_block": "slider_right", "slider": "left"}, "lift_pink_block_slider", {"pink_block": "grasped"}),
        ({"red_block": "grasped", "grasped": 1}, "place_in_slider", {"red_block": "slider_right", "grasped": 0}),
        ({"red_block": "grasped", "grasped": 1}, "open_drawer", None),
        ({"red_block": "grasped", "grasped": 1}, "stack_block", {"red_block": "stacked_top", "grasped": 0}),
        ({"drawer": "open", "blue_block": "slider_left"}, "push_into_drawer", {"red_block": "drawer"}),
        ({"drawer": "open"}, "push_into_drawer", None),
    ],
)
def test_successors(before: dict[str, Any], name: str, after: dict[str, Any] | None) -> None:
    state = {**START, **before}
    found = successor(state, name)
    assert found == (None if after is None else {**state, "grasped": 0, **after}) or (
        found is not None and after is not None and after.items() <= found.items()
    )


def test_an_ambiguous_instruction_leads_nowhere() -> None:
    """Two blocks on the table: on which one shall the grasped one be stacked?"""
    state = {**START, "pink_block": "grasped", "grasped": 1}
    assert successor(state, "stack_block") is None
    assert successor({**state, "red_block": "slider_right"}, "stack_block") is not None


@given(st.lists(st.sampled_from(list(TASKS)), max_size=30))
def test_a_block_is_held_as_long_as_something_is_grasped(names: list[str]) -> None:
    state = START
    for name in names:
        state = successor(state, name) or state
        blocks = [state[key] for key in state if str(key).endswith("_block")]
        assert set(state) == set(CONDITIONS)
        assert blocks.count("grasped") == state["grasped"]
        assert blocks.count("stacked_top") == blocks.count("stacked_bottom") <= 1
