"""Where robot and blocks stand when a chain begins: words to numbers.

The official evaluation has one pose of the robot, two places on the table, one in each half of the cabinet, and turns
the blocks by angles that it draws with a seed hashed from the words. Chains to learn and to tune on draw their angles
from seeds of their own, and shift the blocks a little, so that they begin from none of the official states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from dyslctl_calvin.fnv import fnv1_32
from dyslctl_calvin.tasks import COLOURS, State

ROBOT_OBS = np.array(
    [
        *(0.02586889, -0.2313129, 0.5712808),
        *(3.09045411, -0.02908596, 1.50013585),
        0.07999963,
        *(-1.21779124, 1.03987629, 2.11978254, -2.34205014, -0.87015899, 1.64119093, 0.55344928),
        1.0,
    ]
)
"""``[15]``: position (m) and Euler angles (rad) of the hand, width of the fingers (m), arm joints (rad), 1: open."""

Scene = Literal["A", "B", "C", "D"]
SCENES: tuple[Scene, ...] = get_args(Scene)

YAW = (np.pi / 2 - np.pi / 8, np.pi / 2 + np.pi / 8)
DRAWER_OPEN, SWITCH_ON = 0.22, 0.088
"""Joint positions: of the drawer (m), of the switch (rad)."""
SHIFT = 0.01
"""How far blocks of chains that are not official lie from the places below, at most, along each axis, m."""


@dataclass(frozen=True)
class Places:
    """Where blocks lie in a scene, and how far its sliding door goes to the left (m)."""

    table: tuple[np.ndarray, np.ndarray]
    cabinet: Mapping[str, np.ndarray]
    door_left: float


_D = Places(
    table=(
        np.array([5.00000896e-02, -1.20000177e-01, 4.59990009e-01]),
        np.array([2.29995412e-01, -1.19995140e-01, 4.59990010e-01]),
    ),
    cabinet={
        "slider_left": np.array([-2.40851662e-01, 9.24044687e-02, 4.60990009e-01]),
        "slider_right": np.array([7.03416330e-02, 9.24044687e-02, 4.60990009e-01]),
    },
    door_left=0.28,
)
"""The official places. In B and C the cabinet stands 18 cm further to the right, and in B the button in the way."""
_CABINET_BC = {half: place + np.array([0.18, 0, 0]) for half, place in _D.cabinet.items()}
PLACES: Mapping[Scene, Places] = {
    "A": _D,
    "B": replace(_D, table=(_D.table[0], _D.table[0] - np.array([0.18, 0, 0])), cabinet=_CABINET_BC),
    "C": replace(_D, cabinet=_CABINET_BC, door_left=0.24),
    "D": _D,
}


@dataclass(frozen=True)
class Placement:
    """One initial state.

    Attributes:
        joints: ``[6]`` sliding door, drawer, button, switch, and the logical states of bulb and LED: ``scene_obs[:6]``.
        blocks: ``red``, ``blue``, ``pink`` -> ``[6]`` position (m) and Euler angles (rad).
    """

    joints: np.ndarray
    blocks: Mapping[str, np.ndarray]

    def scene_obs(self, order: tuple[str, ...] = COLOURS) -> np.ndarray:
        """``[24]`` as the simulator takes it; scenes hold their blocks in different orders."""
        return np.concatenate([self.joints, *(self.blocks[colour] for colour in order)])


def official(state: State) -> Placement:
    """The official placement of ``state``. Its keys must be in the official order: the hash goes over their values."""
    return _place(state, PLACES["D"], np.random.RandomState(fnv1_32(str(dict(state).values()))))


def drawn(state: State, scene: Scene, seed: int) -> Placement:
    """A placement of ``state`` that ``seed`` determines: other angles, and shifted by up to :data:`SHIFT`."""
    random = np.random.RandomState(seed)
    placement = _place(state, PLACES[scene], random)
    shift = {colour: np.append(random.uniform(-SHIFT, SHIFT, 2), np.zeros(4)) for colour in COLOURS}
    return Placement(placement.joints, {colour: pose + shift[colour] for colour, pose in placement.blocks.items()})


def _place(state: State, places: Places, random: np.random.RandomState) -> Placement:
    """Draws in the official order: the two places on the table are shuffled, then red, blue and pink are turned."""
    order = [0, 1]
    random.shuffle(order)
    places = replace(places, table=(places.table[order[0]], places.table[order[1]]))
    blocks = {}
    for colour in COLOURS:
        turn = np.array([0.0, 0.0, random.uniform(*YAW)])
        blocks[colour] = np.concatenate([_position(state, colour, places), turn])
    return Placement(_joints(state, places), blocks)


def _position(state: State, colour: str, places: Places) -> np.ndarray:
    """Red gets the first place on the table, pink the second, and blue the one that red leaves."""
    where = str(state[f"{colour}_block"])
    if where in places.cabinet:
        return places.cabinet[where]
    second = colour == "pink" or (colour == "blue" and state["red_block"] == "table")
    return places.table[1 if second else 0]


def _joints(state: State, places: Places) -> np.ndarray:
    door = places.door_left if state["slider"] == "left" else 0.0
    drawer = DRAWER_OPEN if state["drawer"] == "open" else 0.0
    switch = SWITCH_ON if state["lightbulb"] == 1 else 0.0
    return np.array([door, drawer, 0.0, switch, state["lightbulb"], state["led"]], np.float64)
