from __future__ import annotations

import numpy as np
import pytest

from dyslctl.suites.tabletop.camera import project_agent, project_wrist
from dyslctl.suites.tabletop.expert import expert
from dyslctl.suites.tabletop.render import _AgentView, render, render_agent, render_wrist
from dyslctl.suites.tabletop.scene import BIN_FLOOR_SHADE, BIN_RGB, BLOCK_RGB, TABLE
from dyslctl.suites.tabletop.tasks import SuiteKind
from dyslctl.suites.tabletop.world import World

TOP = np.array([0.0, 0.0, 0.14])
OUT_OF_SIGHT = np.array([1.0, 1.0, 0.9])


def _seeds(count: int) -> np.ndarray:
    return np.arange(count) + 500


def _pixels(image: np.ndarray, at: np.ndarray) -> np.ndarray:
    """``[B, M, 3]`` in 0 to 1, from ``[B, h, w, 3]`` at ``[B, M, 2]``."""
    column, row = np.floor(at * image.shape[1]).astype(int).transpose(2, 0, 1)
    return np.asarray(image[np.arange(len(image))[:, None], row, column] / 255.0)


def test_shapes_and_types() -> None:
    agent, wrist = render(World.sample("object", _seeds(3)))
    assert agent.shape == wrist.shape == (3, 56, 56, 3)
    assert agent.dtype == wrist.dtype == np.uint8
    assert render_agent(World.sample("object", _seeds(1)), 256).shape == (1, 256, 256, 3)


@pytest.mark.parametrize("size", [56, 224])
def test_blocks_show_their_colour_where_the_agent_camera_projects_them(kind: SuiteKind, size: int) -> None:
    world = World.sample(kind, _seeds(30))
    world.teleport_gripper(np.ones(30, bool), np.tile(OUT_OF_SIGHT, (30, 1)), np.zeros(30))
    found = _pixels(render_agent(world, size), project_agent(world.block_xyz + TOP))
    expected = BLOCK_RGB[world.block_colour]
    np.testing.assert_allclose(found[world.block_present], expected[world.block_present], atol=0.12)


def test_bins_show_their_dark_floor(kind: SuiteKind) -> None:
    world = World.sample(kind, _seeds(30))
    world.teleport_gripper(np.ones(30, bool), np.tile([-0.9, -0.9, 0.1], (30, 1)), np.zeros(30))
    points = np.concatenate([world.bin_xy, np.zeros((30, 2, 1))], -1)
    found = _pixels(render_agent(world), project_agent(points))
    np.testing.assert_allclose(found, np.tile(BIN_RGB * BIN_FLOOR_SHADE, (30, 1, 1)), atol=0.05)


def test_the_target_shows_its_colour_where_the_wrist_camera_projects_it(kind: SuiteKind) -> None:
    world = World.sample(kind, _seeds(30))
    world.block_present[:] = np.eye(5, dtype=bool)[world.target]
    xyz = np.column_stack([world.target_xy + np.array([0.03, -0.12]), np.full(30, 0.4)])
    world.teleport_gripper(np.ones(30, bool), xyz, np.linspace(-0.8, 0.8, 30))
    top = np.column_stack([world.target_xy, np.full(30, 0.14)])[:, None]
    found = _pixels(render_wrist(world), project_wrist(world.gripper, world.gripper_yaw, top))[:, 0]
    colour = world.block_colour[np.arange(30), world.target]
    np.testing.assert_allclose(found, BLOCK_RGB[colour], atol=0.02)


def test_the_wrist_image_shows_the_fingers_open_and_shut() -> None:
    world = World.sample("object", _seeds(1))
    opened = render_wrist(world)
    world.gripper_closed[:] = True
    shut = render_wrist(world)
    assert not np.array_equal(opened, shut)


def test_absent_blocks_leave_no_trace() -> None:
    world = World.sample("object", _seeds(8))
    before = render(world)
    world.block_xyz[~world.block_present] = (0.1, -0.3, 0.0)
    for image, again in zip(before, render(world), strict=True):
        np.testing.assert_array_equal(image, again)


def test_an_empty_table_is_table_colour() -> None:
    world = World.sample("object", _seeds(1))
    world.block_present[:] = False
    world.gripper[:] = (0.0, -0.5, 0.6)
    centre_below = render_agent(world)[0, 40, 28] / 255.0
    np.testing.assert_allclose(centre_below, TABLE, atol=0.01)


def test_a_scene_looks_the_same_alone_and_in_a_batch(kind: SuiteKind) -> None:
    world = World.sample(kind, _seeds(9))
    for _ in range(40):
        world.step(expert(world))
    batch = render(world)
    for index in range(9):
        alone = render(world.clone(np.array([index])))
        np.testing.assert_array_equal(alone[0][0], batch[0][index])
        np.testing.assert_array_equal(alone[1][0], batch[1][index])


@pytest.mark.parametrize("gripper", [(0.0, -1.0, 0.9), (-0.6, -0.8, 0.6), (0.3, 0.6, 0.4), (1.0, 1.0, 0.05)])
def test_windows_cut_nothing_off(gripper: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    world = World.sample("chain", _seeds(4))
    world.held[:], world.gripper_closed[:] = 2, True
    world.teleport_gripper(np.ones(4, bool), np.tile(gripper, (4, 1)), np.linspace(-0.8, 0.8, 4))
    windowed = render_agent(world)
    everywhere = np.arange(56 * 56)
    monkeypatch.setattr(_AgentView, "_window", lambda view, prism, scene: np.tile(everywhere, (len(scene), 1)))
    np.testing.assert_array_equal(windowed, render_agent(world))


def test_colours_are_far_apart() -> None:
    palette = np.concatenate([BLOCK_RGB, BIN_RGB, TABLE[None]])
    distance = np.linalg.norm(palette[:, None] - palette, axis=-1) + 9 * np.eye(len(palette))
    assert distance.min() > 0.3
