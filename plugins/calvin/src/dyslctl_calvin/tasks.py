"""The 34 tasks: their names in the benchmark's order, their words, and what they presume and change.

Names, order and words are the benchmark's own (its validation annotations, one sentence a task); the order matters,
since the official chains are drawn from it. Needs no simulator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations

COLOURS = ("red", "blue", "pink")
SIDES = ("right", "left")
SLIDER = ("slider_right", "slider_left")

Value = int | str
State = Mapping[str, Value]
"""The scene in words: ``led``, ``lightbulb``, ``slider``, ``drawer``, where each block is, and ``grasped``."""


@dataclass(frozen=True)
class Rule:
    """One way to do a task.

    Attributes:
        needs: What must be so before: for each key the values that will do.
        makes: What is so afterwards.
    """

    needs: Mapping[str, tuple[Value, ...]]
    makes: State = field(default_factory=dict)

    def holds(self, state: State) -> bool:
        """Can it be done in ``state``?"""
        return all(state[key] in values for key, values in self.needs.items())


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        words: The instruction.
        category: No two tasks of one category are in a chain.
        rules: The ways to do it; where more than one is open, the instruction is ambiguous.
    """

    words: str
    category: str
    rules: tuple[Rule, ...]


def successor(state: State, name: str) -> State | None:
    """The scene after task ``name``; ``None`` if it cannot be done, or in more than one way."""
    open_ways = [rule for rule in TASKS[name].rules if rule.holds(state)]
    return {**state, **open_ways[0].makes} if len(open_ways) == 1 else None


def _rule(needs: State, makes: State) -> Rule:
    return Rule({key: (value,) for key, value in needs.items()}, makes)


def _block(colour: str) -> str:
    return f"{colour}_block"


def _on_table() -> dict[str, Task]:
    """Rotate, then push: twelve tasks that leave the block on the table."""
    words = {"rotate": "take the {} block and rotate it to the {}", "push": "go push the {} block {}"}
    return {
        f"{verb}_{colour}_block_{side}": Task(
            words[verb].format(colour, side), "move", (_rule({_block(colour): "table", "grasped": 0}, {}),)
        )
        for verb in words
        for colour in COLOURS
        for side in SIDES
    }


_TOGGLES: Mapping[str, tuple[tuple[str, str, Value], tuple[str, str, Value]]] = {
    "slider": (
        ("move_slider_left", "push the sliding door to the left side", "left"),
        ("move_slider_right", "push the sliding door to the right side", "right"),
    ),
    "drawer": (
        ("open_drawer", "pull the handle to open the drawer", "open"),
        ("close_drawer", "push the handle to close the drawer", "closed"),
    ),
    "lightbulb": (
        ("turn_on_lightbulb", "use the switch to turn on the light bulb", 1),
        ("turn_off_lightbulb", "use the switch to turn off the light bulb", 0),
    ),
    "led": (
        ("turn_on_led", "press the button to turn on the led light", 1),
        ("turn_off_led", "press the button to turn off the led light", 0),
    ),
}
"""What has two states: each state's task, its words, and the state."""


def _toggles(kind: str, category: str) -> dict[str, Task]:
    """Two tasks, each of which presumes what the other makes."""
    one, other = _TOGGLES[kind]
    return {
        name: Task(words, category, (_rule({kind: before, "grasped": 0}, {kind: after}),))
        for (name, words, after), (_, _, before) in ((one, other), (other, one))
    }


def _lifts() -> dict[str, Task]:
    words = {
        "table": "grasp and lift the {} block",
        "slider": "lift the {} block from the sliding cabinet",
        "drawer": "Take the {} block from the drawer",
    }
    return {
        f"lift_{colour}_block_{place}": Task(words[place].format(colour), f"lift_{place}", _lift(colour, place))
        for colour in COLOURS
        for place in words
    }


def _lift(colour: str, place: str) -> tuple[Rule, ...]:
    """The sliding door covers one half of the cabinet: the block must be in the other."""
    block = _block(colour)
    scenes: dict[str, tuple[State, ...]] = {
        "table": ({block: "table"},),
        "slider": ({block: "slider_left", "slider": "right"}, {block: "slider_right", "slider": "left"}),
        "drawer": ({block: "drawer", "drawer": "open"},),
    }
    return tuple(_rule({**scene, "grasped": 0}, {block: "grasped", "grasped": 1}) for scene in scenes[place])


def _places() -> dict[str, Task]:
    """What is grasped goes into the drawer, or into the cabinet.

    The official rules say that behind a door on the right the block comes to lie on the right, though the door covers
    that half. Chains are drawn by them, so they are kept.
    """
    slider = tuple(
        _rule({_block(c): "grasped", "slider": side, "grasped": 1}, {_block(c): f"slider_{side}", "grasped": 0})
        for c in COLOURS
        for side in SIDES
    )
    drawer = tuple(
        _rule({_block(c): "grasped", "drawer": "open", "grasped": 1}, {_block(c): "drawer", "grasped": 0})
        for c in COLOURS
    )
    return {
        "place_in_slider": Task("store the grasped block in the sliding cabinet", "place", slider),
        "place_in_drawer": Task("store the grasped block in the drawer", "place", drawer),
    }


def _stacks() -> dict[str, Task]:
    pairs = [(_block(top), _block(bottom)) for top, bottom in permutations(COLOURS, 2)]
    stack = tuple(
        _rule(
            {top: "grasped", bottom: "table", "grasped": 1},
            {top: "stacked_top", bottom: "stacked_bottom", "grasped": 0},
        )
        for top, bottom in pairs
    )
    unstack = tuple(
        _rule({top: "stacked_top", bottom: "stacked_bottom", "grasped": 0}, {top: "table", bottom: "table"})
        for top, bottom in pairs
    )
    return {
        "stack_block": Task("stack the grasped block", "stack", stack),
        "unstack_block": Task("remove the stacked block", "unstack", unstack),
    }


def _push_into_drawer() -> dict[str, Task]:
    """The one block on the table, while both others are in the cabinet."""
    rules = []
    for colour in COLOURS:
        others = [_block(other) for other in COLOURS if other != colour]
        needs: dict[str, tuple[Value, ...]] = {_block(colour): ("table",), **dict.fromkeys(others, SLIDER)}
        needs |= {"drawer": ("open",), "grasped": (0,)}
        rules.append(Rule(needs, {_block(colour): "drawer", "grasped": 0}))
    return {"push_into_drawer": Task("slide the block that it falls into the drawer", "push_into", tuple(rules))}


TASKS: Mapping[str, Task] = {
    **_on_table(),
    **_toggles("slider", "slider"),
    **_toggles("drawer", "drawer"),
    **_lifts(),
    **_places(),
    **_stacks(),
    **_toggles("lightbulb", "light"),
    **_toggles("led", "light"),
    **_push_into_drawer(),
}
"""By name, in the order in which the official chains are drawn."""
