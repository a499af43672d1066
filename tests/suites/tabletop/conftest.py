"""A scene whose numbers are round enough to work out by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dyslctl.suites.tabletop.tasks import SuiteKind
from dyslctl.suites.tabletop.world import World

RED = 0


@pytest.fixture
def red_to_purple() -> World:
    """Seed 0 is ``red_to_purple``. Red lies at (0.1, -0.3) under open fingers, the bins at (-0.4, 0.6), (0.4, 0.6)."""
    world = World.sample("object", np.array([0]))
    others = [slot for slot in range(1, 5) if world.block_present[0, slot]]
    world.block_xyz[0, RED, :2] = (0.1, -0.3)
    world.block_xyz[0, others, :2] = [(-0.7, -0.7), (-0.7, 0.0), (0.7, 0.0)]
    world.block_yaw[:] = 0.0
    world.bin_xy[0] = [(-0.4, 0.6), (0.4, 0.6)]
    world.gripper[0] = (0.1, -0.3, 0.07)
    return world


@pytest.fixture
def act() -> Callable[..., np.ndarray]:
    """``act(world, dx=1.0, close=True)``: one step of a batch of one; returns what ``World.step`` does."""

    def step(world: World, close: bool = False, **axes: float) -> np.ndarray:
        action = np.zeros((1, 7), np.float32)
        for axis, value in axes.items():
            action[0, ("dx", "dy", "dz", "droll", "dpitch", "dyaw").index(axis)] = value
        action[0, 6] = 1.0 if close else -1.0
        return world.step(action)

    return step


@pytest.fixture
def place(act: Callable[..., np.ndarray]) -> Callable[..., World]:
    """``place(world, slot, xyz)``: grasp block ``slot`` where it lies, move it to ``xyz`` and let go."""

    def grasp_and_release(world: World, slot: int, xyz: tuple[float, float, float]) -> World:
        everywhere, straight = np.ones(1, bool), np.zeros(1, np.float32)
        above = np.append(world.block_xyz[0, slot, :2], 0.07)
        world.teleport_gripper(everywhere, above[None], straight)
        act(world, close=True)
        world.teleport_gripper(everywhere, np.array([xyz]), straight)
        act(world, close=False)
        return world

    return grasp_and_release


@pytest.fixture(params=["object", "spatial", "chain"])
def kind(request: pytest.FixtureRequest) -> SuiteKind:
    chosen: SuiteKind = request.param
    return chosen
