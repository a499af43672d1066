"""The expert's geometry, grasps and movements, in a scene of boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dyslctl_libero.expert import aside
from dyslctl_libero.expert.grasps import across, at_knob, at_rim, nearest
from dyslctl_libero.expert.hand import CLOSED, OPEN, Hand
from dyslctl_libero.expert.rotation import about_z, rotation_vector
from dyslctl_libero.expert.scene import Box, raised
from hypothesis import given
from hypothesis import strategies as st

angles = st.floats(-3.0, 3.0)


@given(angles)
def test_the_vector_of_a_turn_about_the_vertical(angle: float) -> None:
    np.testing.assert_allclose(rotation_vector(about_z(angle)), [0, 0, angle], atol=1e-5)


def test_distance_to_a_box() -> None:
    box = Box(np.array([1.0, 0, 0]), np.eye(3), np.array([0.5, 1, 2]))
    points = np.array([[2.0, 0, 0], [1.0, 0, 0], [1.8, 1.4, 0], [0.4, 0, 0]])
    np.testing.assert_allclose(box.distance(points), [0.5, -0.5, 0.5, 0.1])


def test_extent_of_a_turned_box() -> None:
    box = Box(np.zeros(3), about_z(np.pi / 2), np.array([0.1, 0.2, 0.3]))
    np.testing.assert_allclose(box.extent, [0.2, 0.1, 0.3])


@given(angles, angles)
def test_the_nearest_of_two_like_yaws(yaw: float, start: float) -> None:
    found = nearest(yaw, start)
    assert abs(found - start) <= np.pi / 2 + 1e-9
    assert abs(np.sin(found - yaw)) < 1e-9  # the same axis


def test_fingers_close_over_the_narrow_side(flat_scene: Any, box_points: Any) -> None:
    scene = flat_scene({"box": box_points((0.1, 0.05, 0.04), (0.02, 0.06, 0.04))}, [])
    grasp = across(scene, "box", start_yaw=0.0)
    assert grasp.yaw == pytest.approx(0.0, abs=0.09)  # along x, where it is 4 cm wide; directions are 5 degrees apart
    np.testing.assert_allclose(grasp.point, [0.1, 0.05, 0.08 - 0.027], atol=1e-9)


def test_a_flat_box_is_grasped_half_way_up(flat_scene: Any, box_points: Any) -> None:
    scene = flat_scene({"box": box_points((0, 0, 0.015), (0.02, 0.05, 0.015))}, [])
    assert across(scene, "box", 0.0).point[2] == pytest.approx(0.015)


def test_fingers_avoid_a_neighbour(flat_scene: Any, box_points: Any) -> None:
    points = box_points((0, 0, 0.05), (0.02, 0.02, 0.05))
    walls = [Box(np.array([side * 0.05, 0, 0.05]), np.eye(3), np.array([0.01, 0.05, 0.05])) for side in (-1, 1)]
    grasp = across(flat_scene({"can": points}, walls), "can", start_yaw=0.0)
    assert abs(np.cos(grasp.yaw)) < 0.2  # along y, though yaw 0 would be less of a turn


def test_a_long_box_is_grasped_beside_its_middle_where_a_neighbour_stands(flat_scene: Any, box_points: Any) -> None:
    points = box_points((0, 0, 0.01), (0.02, 0.05, 0.01))
    wall = Box(np.array([0, 0.04, 0.1]), np.eye(3), np.array([0.1, 0.005, 0.1]))
    assert across(flat_scene({"box": points}, [wall]), "box", start_yaw=0.0).point[1] == pytest.approx(-0.02)
    assert across(flat_scene({"box": points}, []), "box", start_yaw=0.0).point[1] == pytest.approx(0.0)
    short = box_points((0, 0, 0.01), (0.02, 0.025, 0.01))
    assert across(flat_scene({"box": short}, [wall]), "box", start_yaw=0.0).point[1] == pytest.approx(0.0)  # no room


def test_a_bowl_is_pinched_at_the_rim_nearest_to_the_arm(flat_scene: Any) -> None:
    around = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    rim = np.stack([0.07 * np.cos(around), 0.07 * np.sin(around), np.full(64, 0.06)], 1)
    foot = np.array([[0.03, 0, 0.0], [-0.03, 0, 0.0]])
    grasp = at_rim(flat_scene({"bowl": np.concatenate([rim, foot])}, []), "bowl", start_yaw=0.0)
    np.testing.assert_allclose(grasp.point, [-0.066, 0, 0.03], atol=1e-9)
    assert grasp.yaw == pytest.approx(0.0)


def test_a_lid_is_taken_at_its_knob(flat_scene: Any, box_points: Any) -> None:
    """Too wide to be grasped across, so its highest shape is: 1 cm below the top, fingers as they are."""
    pot, knob = box_points((0.1, 0, 0.07), (0.06, 0.06, 0.07)), box_points((0.1, 0.02, 0.15), (0.005, 0.005, 0.01))
    scene = flat_scene({"pot": np.concatenate([pot, knob])}, [])
    grasp = at_knob(scene, "pot", start_yaw=0.3)
    np.testing.assert_allclose(grasp.point, [0.1, 0.02, 0.15], atol=1e-9)
    assert grasp.yaw == 0.3


def test_what_shares_a_place_stands_side_by_side(flat_scene: Any, box_points: Any) -> None:
    """Two pots whose handles point along y: next to each other along x."""
    objects = {name: box_points((0, 0, 0.1), (0.04, 0.08, 0.1)) for name in ("pot_1", "pot_2", "mug_1")}
    goals = [["on", "pot_1", "stove"], ["on", "pot_2", "stove"], ["on", "mug_1", "plate"], ["turnon", "stove"]]
    scene = flat_scene(objects, [])
    np.testing.assert_allclose([aside(scene, goals, goal) for goal in goals[:3]], [[-0.05, 0], [0.05, 0], [0, 0]])


def test_an_action_asks_for_twice_the_way_and_no_more_than_allowed(flat_scene: Any) -> None:
    hand = Hand(flat_scene({}, []))
    near = hand.toward(hand.scene.hand + np.array([0.01, -0.005, 0]), hand.start_yaw)
    np.testing.assert_allclose(near, [0.4, -0.2, 0, 0, 0, 0, -1], atol=1e-6)
    far = hand.toward(hand.scene.hand + np.array([0.2, 0.1, 0]), hand.start_yaw, speed=0.5)
    np.testing.assert_allclose(far, [0.5, 0.25, 0, 0, 0, 0, -1], atol=1e-6)
    turned = hand.toward(hand.scene.hand, hand.start_yaw + 0.1)
    np.testing.assert_allclose(turned, [0, 0, 0, 0, 0, 0.3, -1], atol=1e-6)
    assert near.dtype == np.float32


@given(st.tuples(*[st.floats(-0.3, 0.3)] * 3), st.floats(-1.2, 1.2), st.integers(0, 3))
def test_the_hand_arrives(flat_scene: Any, way: tuple[float, float, float], turn: float, quarters: int) -> None:
    """Along whichever of the hand's own axes its fingers close: the simulator's do along -x."""
    scene = flat_scene({}, [])
    scene.hand_axes = scene.hand_axes @ about_z(quarters * np.pi / 2)
    hand = Hand(scene)
    target, yaw = hand.scene.hand + np.array(way), hand.start_yaw + turn
    for action in hand.go(target, yaw, within=0.005, turned=0.05):
        assert np.abs(action).max() <= 1
        hand.scene.execute(action)
    assert np.linalg.norm(hand.scene.hand - target) < 0.005
    assert hand.yaw == pytest.approx(yaw, abs=0.0501)


def test_a_movement_that_comes_no_nearer_ends(flat_scene: Any) -> None:
    """Against a wall 2 cm ahead: the ten steps without a millimetre of progress come after those that made some."""
    hand = Hand(flat_scene({}, []))
    target, steps = hand.scene.hand + np.array([0.1, 0, 0]), 0
    for action in hand.go(target, hand.start_yaw):
        hand.scene.execute(action)
        hand.scene.hand[0] = min(hand.scene.hand[0], 0.02)
        steps += 1
    assert steps == 11  # the first action arrives at the wall


def test_holding_changes_only_the_fingers(flat_scene: Any) -> None:
    hand = Hand(flat_scene({}, []))
    assert hand.fingers == OPEN
    actions = list(hand.hold(3, CLOSED))
    assert len(actions) == 3
    np.testing.assert_allclose(actions, [[0, 0, 0, 0, 0, 0, 1]] * 3, atol=1e-6)


def test_raised() -> None:
    np.testing.assert_allclose(raised(np.array([1.0, 2.0, 3.0]), 0.5), [1, 2, 3.5])
