"""The expert's geometry and movements, in a scene of boxes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dyslctl_calvin.expert import __main__ as main
from dyslctl_calvin.expert import expert, skills
from dyslctl_calvin.expert.hand import CLOSED, OPEN, PITCH, YAW, Hand, nearest, wrap
from dyslctl_calvin.expert.scene import Block, Scene
from dyslctl_calvin.expert.skills import HOLDING, SKILLS, free_place, grasp_yaw
from dyslctl_calvin.sequences import Chain
from dyslctl_calvin.suite import CalvinD
from dyslctl_calvin.tasks import TASKS
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.suite import EpisodeSpec

angles = st.floats(-6.0, 6.0)


def block(length: float = 0.08, yaw: float = 0.0, at: tuple[float, float] = (0.1, -0.1), body: int = 2) -> Block:
    """One that lies flat, its long axis turned by ``yaw``."""
    c, s = np.cos(yaw), np.sin(yaw)
    axes = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return Block(f"block_{body}", body, np.array([*at, 0.46]), axes, np.array([length, 0.04, 0.04]))


class Table:
    """A scene whose hand is where it was told to be."""

    def __init__(self, door: float = 0.0, blocks: tuple[Block, ...] = ()) -> None:
        self.target, self.target_angles = np.array([0.0, -0.2, 0.6]), np.array([3.09, PITCH, YAW])
        self.blocks, self.opening = list(blocks), 0.08
        self.links = {"plank_link": -0.1, "slide_link": -0.1 - door}

    @property
    def hand(self) -> np.ndarray:
        return self.target

    def link(self, name: str) -> np.ndarray:
        return np.array([self.links[name], 0, 0])

    def held(self) -> Block | None:
        return None

    def execute(self, action: np.ndarray) -> None:
        self.target = self.target + 0.02 * action[:3]
        self.target_angles = self.target_angles + 0.05 * action[3:6]


def run(table: Table, moves: Any) -> np.ndarray:
    """``[steps, 7]``: what a movement does in ``table``."""
    actions = []
    for action in moves:
        table.execute(action)
        actions.append(action)
    return np.array(actions).reshape(-1, 7)


def hand(table: Table) -> Hand:
    return Hand(table, OPEN)  # type: ignore[arg-type]


@given(angles, angles, st.sampled_from([np.pi, np.pi / 2]))
def test_the_nearest_of_like_yaws(yaw: float, start: float, period: float) -> None:
    found = nearest(yaw, start, period)
    assert abs(found - start) <= period / 2 + 1e-9
    assert abs(np.sin((found - yaw) * np.pi / period)) < 1e-6


@given(angles)
def test_wrapped_angles_are_the_same_direction(angle: float) -> None:
    found = float(wrap(np.array(angle)))
    assert -np.pi <= found < np.pi and abs(np.sin((found - angle) / 2)) < 1e-6


def test_a_straight_line_at_full_speed() -> None:
    """10 cm at 2 cm an action: five actions of one direction, then none."""
    table = Table()
    actions = run(table, hand(table).go(np.array([0.08, -0.14, 0.6])))
    assert len(actions) == 5
    np.testing.assert_allclose(actions[:, :3], [[0.8, 0.6, 0]] * 5, atol=1e-5)
    np.testing.assert_allclose(table.target, [0.08, -0.14, 0.6], atol=1e-6)
    assert (actions[:, 6] == OPEN).all() and np.abs(actions[:, 3:6]).max() < 1e-3


def test_turning_takes_as_long_as_it_takes() -> None:
    """0.2 rad at 0.05 an action; the pitch stays."""
    table = Table()
    actions = run(table, hand(table).turn(YAW + 0.2))
    np.testing.assert_allclose(actions[:4, 5], [1, 1, 1, 1], atol=1e-3)
    assert 4 <= len(actions) <= 5 and table.target_angles[1] == pytest.approx(PITCH)


@given(st.tuples(*[st.floats(-0.5, 0.5)] * 3), st.floats(0.5, 2.5), st.floats(0.004, 0.02), st.integers(1, 60))
def test_no_action_is_faster_than_asked_nor_are_there_more(
    move: tuple[float, float, float], yaw: float, speed: float, steps: int
) -> None:
    table = Table()
    actions = run(table, hand(table).go(table.target + np.array(move), yaw=yaw, speed=speed, steps=steps))
    assert len(actions) <= steps
    assert np.linalg.norm(actions[:, :3], axis=1).max(initial=0) * 0.02 <= speed + 1e-6
    assert np.abs(actions[:, 3:]).max(initial=0) <= 1


def test_a_movement_ends_when_it_is_told_to() -> None:
    table = Table()
    actions = run(table, hand(table).go(np.array([1.0, -0.2, 0.6]), until=lambda: bool(table.target[0] > 0.05)))
    assert len(actions) == 3


def test_fingers_hold_what_they_do() -> None:
    table = Table()
    held = hand(table)
    assert run(table, held.hold(3, CLOSED))[:, 6].tolist() == [CLOSED] * 3
    assert run(table, held.by(z=0.02))[0, 6] == CLOSED


def test_a_block_that_lies_flat() -> None:
    """8 cm along an axis at 30 degrees: 4 cm along the one at 120."""
    found = block(yaw=np.pi / 6)
    (short, edge), (long, length) = found.flat
    assert (edge, length) == (0.04, 0.08)
    assert np.degrees([short, long]) == pytest.approx([120, 30])
    np.testing.assert_allclose(found.extent, [0.04 * 3**0.5 / 2 + 0.01, 0.02 + 0.01 * 3**0.5, 0.02])
    assert found.height == 0.04


def test_a_block_on_end() -> None:
    axes = np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])
    found = Block("block_red", 2, np.zeros(3), axes, np.array([0.08, 0.04, 0.04]))
    assert found.height == 0.08 and [edge for _, edge in found.flat] == [0.04, 0.04]


@given(angles, st.sampled_from([0.056, 0.08]))
def test_fingers_close_over_the_narrow_side(yaw: float, length: float) -> None:
    """A hand at yaw closes along yaw + 90 degrees, where the long axis must not be."""
    found = grasp_yaw(block(length, yaw))
    assert abs(np.sin(found - yaw)) < 1e-6 and abs(found - YAW) <= np.pi / 2 + 1e-9


@given(angles)
def test_a_cube_is_taken_with_hardly_a_turn(yaw: float) -> None:
    assert abs(grasp_yaw(block(0.04, yaw)) - YAW) <= np.pi / 4 + 1e-9


def test_the_free_place_is_in_the_open_half_and_away_from_others() -> None:
    """The cabinet goes from -0.36 to 0.16. Door right: it covers all from -0.1 on; left (0.28): all up to -0.095."""
    empty = free_place(Table())  # type: ignore[arg-type]
    assert empty == pytest.approx(-0.23, abs=0.01)
    assert free_place(Table(door=0.28)) == pytest.approx(0.0325, abs=0.01)  # type: ignore[arg-type]
    left = free_place(Table(blocks=(block(at=(-0.30, 0.09)),)))  # type: ignore[arg-type]
    assert left == pytest.approx(-0.18, abs=0.011)  # 12 cm away are enough
    assert free_place(Table(blocks=(block(at=(-0.23, -0.12)),))) == empty  # type: ignore[arg-type] - on the table


def test_there_is_a_skill_for_every_task() -> None:
    assert set(SKILLS) == set(TASKS)
    assert {name for name, task in TASKS.items() if task.rules[0].needs["grasped"] == (1,)} == HOLDING


def test_attempts_never_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that fails is made again, from above and with open fingers; a place task keeps what it holds."""
    table = Table()
    monkeypatch.setattr("dyslctl_calvin.expert.Scene", lambda env: table)
    monkeypatch.setitem(SKILLS, "open_drawer", lambda hand: hand.hold(1, CLOSED))
    monkeypatch.setitem(SKILLS, "stack_block", lambda hand: hand.hold(1, CLOSED))
    simulator: Any = SimpleNamespace(env=None)
    moves = expert(simulator, "open_drawer")
    fingers = []
    for _ in range(9):
        action = next(moves)
        table.execute(action)
        fingers.append(float(action[6]))
    assert fingers == [OPEN, OPEN, CLOSED] * 3
    moves = expert(simulator, "stack_block")
    assert [float(next(moves)[6]) for _ in range(4)] == [CLOSED] * 4


def test_how_far_the_expert_gets_is_counted(monkeypatch: pytest.MonkeyPatch, chain: Chain) -> None:
    scores = iter([5, 2, 0])
    monkeypatch.setattr(CalvinD, "demonstrate", lambda self, spec: SimpleNamespace(score=next(scores)))
    monkeypatch.setattr(CalvinD, "beginning", lambda self, spec: (chain, None, "D"))
    found, asked, missed = main.play(CalvinD(), [EpisodeSpec("calvin_d", "test", i, "chain", i) for i in range(3)])
    assert found == [5, 2, 0]
    assert asked == {"open_drawer": 3, "turn_on_led": 2, "lift_red_block_table": 2, "stack_block": 1} | {
        "move_slider_left": 1
    }
    assert missed == {"lift_red_block_table": 1, "open_drawer": 1}


def test_a_stack_is_found_by_what_blocks_touch() -> None:
    """On a scene of PyBullet's answers: blue lies on red, pink alone."""
    red, blue, pink = block(body=2), block(body=3), block(body=4)
    touching = {2: {3, 5}, 3: {2}, 4: {5}}
    blue = Block(blue.name, 3, blue.position + np.array([0, 0, 0.04]), blue.axes, blue.size)
    scene = SimpleNamespace(
        blocks=[red, blue, pink], contacts=lambda b: [(0, b.body, other, 0, -1) for other in touching[b.body]]
    )
    assert Scene.stacked(scene) is blue  # type: ignore[arg-type]
    touching.update({2: {5}, 3: {5}})
    assert Scene.stacked(scene) is None  # type: ignore[arg-type]


def test_the_hand_comes_out_of_the_cabinet_before_it_goes_up() -> None:
    table = Table()
    table.target = np.array([0.0, 0.06, 0.48])
    places = []
    for action in skills.retreat(hand(table)):
        table.execute(action)
        places.append(table.target)
    first_up = next(i for i, place in enumerate(places) if place[2] > 0.53)
    assert places[first_up][1] < skills.FRONT and places[-1][2] == pytest.approx(skills.SAFE, abs=0.01)
