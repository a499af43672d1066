from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dyslctl.errors import PluginError
from dyslctl.suites.tabletop.tasks import CHAINS
from dyslctl.suites.tabletop.world import NOTHING, World

Act = Callable[..., np.ndarray]
Place = Callable[..., World]
RED, PURPLE, ORANGE = 0, (-0.4, 0.6), (0.4, 0.6)


# --- moving ------------------------------------------------------------------------------------------------
def test_a_full_step_is_five_hundredths_and_roll_does_nothing(red_to_purple: World, act: Act) -> None:
    act(red_to_purple, dx=1.0, dy=-0.5, dz=1.0, droll=1.0, dpitch=1.0, dyaw=-1.0)
    np.testing.assert_allclose(red_to_purple.gripper[0], [0.15, -0.325, 0.12], atol=1e-6)
    assert red_to_purple.gripper_yaw[0] == pytest.approx(-0.15)


def test_actions_are_clipped_and_reach_is_limited(red_to_purple: World, act: Act) -> None:
    act(red_to_purple, dx=40.0, dz=-3.0)
    np.testing.assert_allclose(red_to_purple.gripper[0], [0.15, -0.3, 0.05], atol=1e-6)


def test_proprio_is_liberos(red_to_purple: World, act: Act) -> None:
    act(red_to_purple, dyaw=1.0)
    expected = [0.1, -0.3, 0.07, 0, 0, 0.15, 0.04, -0.04]
    np.testing.assert_allclose(red_to_purple.proprio()[0], expected, atol=1e-6)
    assert red_to_purple.proprio().dtype == np.float32
    act(red_to_purple, close=True)
    np.testing.assert_allclose(red_to_purple.proprio()[0, 6:], [0.0128, -0.0128], atol=1e-6)


# --- grasping ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("offset", "caught"), [(0.0, True), (0.044, True), (-0.044, True), (0.046, False)])
def test_grasp_tolerance(red_to_purple: World, act: Act, offset: float, caught: bool) -> None:
    red_to_purple.gripper[0, 0] += offset
    act(red_to_purple, close=True)
    assert bool(red_to_purple.held[0] == RED) is caught


def test_a_missed_block_is_knocked_straight_away(red_to_purple: World, act: Act) -> None:
    red_to_purple.gripper[0, 0] += 0.06
    act(red_to_purple, close=True)
    np.testing.assert_allclose(red_to_purple.block_xyz[0, RED], [0.1 - 0.12, -0.3, 0.0], atol=1e-6)


def test_tolerance_is_measured_in_the_grippers_frame(red_to_purple: World, act: Act) -> None:
    turned = red_to_purple.clone()
    for world, yaw in ((red_to_purple, 0.0), (turned, np.pi / 4)):
        world.gripper[0, :2] += 0.04  # 0.04 along both axes; seen from a hand at 45 degrees 0.0566 along one
        world.gripper_yaw[0] = world.block_yaw[0, RED] = yaw
        act(world, close=True)
    assert red_to_purple.held[0] == RED
    assert turned.held[0] == NOTHING


@pytest.mark.parametrize(("yaw", "caught"), [(0.59, True), (-0.59, True), (0.61, False)])
def test_yaw_tolerance_and_straightening(red_to_purple: World, act: Act, yaw: float, caught: bool) -> None:
    red_to_purple.gripper_yaw[0] = yaw
    act(red_to_purple, close=True)
    assert bool(red_to_purple.held[0] == RED) is caught
    assert red_to_purple.block_yaw[0, RED] == pytest.approx(yaw if caught else 0.0)


@pytest.mark.parametrize(("z", "caught"), [(0.109, True), (0.111, False)])
def test_closing_too_high_touches_nothing(red_to_purple: World, act: Act, z: float, caught: bool) -> None:
    before = red_to_purple.block_xyz.copy()
    red_to_purple.gripper[0, 2] = z
    act(red_to_purple, close=True)
    assert bool(red_to_purple.held[0] == RED) is caught
    np.testing.assert_array_equal(red_to_purple.block_xyz[..., :2], before[..., :2])


def test_only_closing_grasps_not_being_closed(red_to_purple: World, act: Act) -> None:
    red_to_purple.gripper_closed[0] = True
    act(red_to_purple, close=True)
    assert red_to_purple.held[0] == NOTHING


def test_a_held_block_hangs_below_the_gripper(red_to_purple: World, act: Act) -> None:
    act(red_to_purple, close=True)
    act(red_to_purple, close=True, dx=1.0, dz=1.0, dyaw=1.0)
    np.testing.assert_allclose(red_to_purple.block_xyz[0, RED], [0.15, -0.3, 0.05], atol=1e-6)
    assert red_to_purple.block_yaw[0, RED] == pytest.approx(0.15)


# --- releasing ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("dx", "z", "solved"), [(0.0, 0.1, True), (0.059, 0.159, True), (0.061, 0.1, False), (0.0, 0.161, False)]
)
def test_release_tolerance(red_to_purple: World, place: Place, dx: float, z: float, solved: bool) -> None:
    world = place(red_to_purple, RED, (PURPLE[0] + dx, PURPLE[1], z))
    assert (bool(world.finished[0]), bool(world.failed[0])) == (solved, not solved)
    assert world.done[0]


def test_a_placed_block_slides_to_the_first_slot(red_to_purple: World, place: Place) -> None:
    world = place(red_to_purple, RED, (*PURPLE, 0.1))
    np.testing.assert_allclose(world.block_xyz[0, RED], [-0.53, 0.73, 0.0], atol=1e-6)
    assert world.score[0] == 1 and world.block_placed[0, RED]


def test_the_wrong_bin_ends_the_episode(red_to_purple: World, place: Place) -> None:
    world = place(red_to_purple, RED, (*ORANGE, 0.1))
    assert world.failed[0] and world.done[0] and world.score[0] == 0


def test_a_wrong_block_in_the_right_bin_ends_the_episode(red_to_purple: World, place: Place) -> None:
    wrong = int(np.flatnonzero(red_to_purple.block_present[0])[1])
    assert place(red_to_purple, wrong, (*PURPLE, 0.1)).failed[0]


def test_a_drop_on_the_table_is_harmless(red_to_purple: World, place: Place) -> None:
    world = place(red_to_purple, RED, (0.0, -0.5, 0.6))
    np.testing.assert_allclose(world.block_xyz[0, RED], [0.0, -0.5, 0.0], atol=1e-6)
    assert world.held[0] == NOTHING and not world.done[0]
    assert place(world, RED, (*PURPLE, 0.1)).finished[0], "it can be picked up again"


def test_nothing_moves_once_done(red_to_purple: World, place: Place, act: Act) -> None:
    world = place(red_to_purple, RED, (*ORANGE, 0.1))
    before = world.clone()
    act(world, close=True, dx=1.0, dz=1.0, dyaw=1.0)
    assert _equal(world, before)


# --- chains ------------------------------------------------------------------------------------------------
def test_a_chain_fills_the_rim_slot_by_slot(place: Place) -> None:
    world = World.sample("chain", np.array([4]))
    slots = np.array([(-0.13, 0.13), (0.0, 0.13), (0.13, 0.13), (-0.13, -0.13), (0.13, -0.13)])
    filled = [0, 0]
    for solved, (colour, goal) in enumerate(CHAINS[4]):
        assert world.instructions() == [_words(colour, goal)]
        assert (int(world.score[0]), bool(world.done[0])) == (solved, False)
        centre = world.bin_xy[0, goal].copy()
        place(world, colour, (*centre, 0.1))
        assert world.clock[0] == 0, "each instruction has its own time"
        np.testing.assert_allclose(world.block_xyz[0, colour, :2], centre + slots[filled[goal]], atol=1e-6)
        filled[goal] += 1
    assert world.finished[0] and world.score[0] == 5


def test_placed_blocks_stay(place: Place, act: Act) -> None:
    world = World.sample("chain", np.array([0]))
    colour, goal = CHAINS[0][0]
    place(world, colour, (*world.bin_xy[0, goal], 0.1))
    before = world.block_xyz[0, colour].copy()
    world.teleport_gripper(np.ones(1, bool), before[None] + [0.0, 0.0, 0.07], np.zeros(1))
    act(world, close=True)
    assert world.held[0] == NOTHING
    np.testing.assert_array_equal(world.block_xyz[0, colour], before)


def test_an_idle_robot_runs_out_of_time() -> None:
    world = World.sample("chain", np.arange(3))
    for step in range(160):
        assert not world.done.any(), step
        world.step(np.zeros((3, 7)))
    assert world.done.all() and not world.failed.any() and world.score.sum() == 0


# --- batches -----------------------------------------------------------------------------------------------
def test_reset_where_starts_only_the_chosen_scenes_anew() -> None:
    world = World.sample("object", np.array([1, 2, 3]))
    for _ in range(5):
        world.step(np.ones((3, 7)))
    kept = world.clone(np.array([1]))
    world.reset_where(np.array([True, False, True]), np.array([40, 50]))
    assert _equal(world.clone(np.array([0, 2])), World.sample("object", np.array([40, 50])))
    assert _equal(world.clone(np.array([1])), kept)


def test_a_clone_lives_on_its_own(red_to_purple: World, act: Act) -> None:
    copy, before = red_to_purple.clone(), red_to_purple.clone()
    act(copy, close=True)
    act(copy, close=True, dz=1.0)
    assert _equal(red_to_purple, before)
    assert not _equal(copy, before)


def test_teleport_clips_and_carries(red_to_purple: World, act: Act) -> None:
    act(red_to_purple, close=True)
    red_to_purple.teleport_gripper(np.ones(1, bool), np.array([[3.0, 0.2, 0.5]]), np.array([-2.0]))
    np.testing.assert_allclose(red_to_purple.gripper[0], [1.0, 0.2, 0.5], atol=1e-6)
    np.testing.assert_allclose(red_to_purple.block_xyz[0, RED], [1.0, 0.2, 0.43], atol=1e-6)
    assert red_to_purple.gripper_yaw[0] == pytest.approx(-0.8)


def test_bad_actions_are_refused(red_to_purple: World) -> None:
    with pytest.raises(PluginError, match=r"expected actions of shape \[1, 7\], found \[1, 6\]"):
        red_to_purple.step(np.zeros((1, 6)))
    for value in (np.nan, np.inf):
        with pytest.raises(PluginError, match=r"expected finite actions, found .* in scene 0"):
            red_to_purple.step(np.full((1, 7), value))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), drift=st.floats(-1, 1), steps=st.integers(1, 60))
def test_invariants_under_random_actions(seed: int, drift: float, steps: int) -> None:
    world, rng = World.sample("chain", np.arange(seed, seed + 8)), np.random.default_rng(seed)
    for _ in range(steps):
        score, done = world.score.copy(), world.done.copy()
        if rng.random() < 0.3:  # above blocks, where grasps happen
            scene, slot = np.arange(8), rng.integers(5, size=8)
            world.teleport_gripper(~done, world.block_xyz[scene, slot] + [0, 0, 0.07], np.zeros(8))
        solved = world.step(rng.uniform(-1, 1, (8, 7)) + np.array([0, drift, 0, 0, 0, 0, 0]))
        assert (np.abs(world.block_xyz[..., :2]) <= 1).all() and (np.abs(world.gripper[:, :2]) <= 1).all()
        assert ((world.block_xyz[..., 2] > 0).sum(-1) <= 1).all(), "at most one block is off the table"
        holding = world.held != NOTHING
        assert world.gripper_closed[holding].all()
        below = world.gripper - world.block_xyz[np.arange(8), world.held]
        np.testing.assert_allclose(below[holding], np.tile([0, 0, 0.07], (holding.sum(), 1)), atol=1e-6)
        np.testing.assert_array_equal(world.score, score + solved)
        assert world.done[done].all(), "done stays done"
        np.testing.assert_array_equal(world.block_placed.sum(-1), world.score)


def _words(colour: int, goal: int) -> str:
    names = ("red", "green", "blue", "yellow", "white")
    return f"pick up the {names[colour]} block and place it in the {('purple', 'orange')[goal]} bin"


def _equal(one: World, other: World) -> bool:
    return all(np.array_equal(value, vars(other)[name]) for name, value in vars(one).items() if name != "kind")
