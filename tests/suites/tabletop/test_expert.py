from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dyslctl.suites.tabletop.expert import IDLE, expert, expert_chunk
from dyslctl.suites.tabletop.tasks import SuiteKind
from dyslctl.suites.tabletop.world import NOTHING, World


def _finish(world: World, limit: int = 160) -> np.ndarray:
    """Run the expert; ``[B]`` actions until each scene was done."""
    steps = np.zeros(len(world), int)
    for _ in range(limit):
        steps += ~world.done
        world.step(expert(world))
    return steps


def test_the_expert_solves_every_initial_state(kind: SuiteKind) -> None:
    world = World.sample(kind, np.arange(200) + 10**7)
    instructions = world.targets.shape[1]
    steps = _finish(world, 160 * instructions)
    assert world.finished.all()
    assert 55 < steps.mean() / instructions < 90


def test_the_expert_recovers_wherever_the_gripper_is_put() -> None:
    world, rng = World.sample("object", np.arange(200)), np.random.default_rng(0)
    for step in range(60):
        if step % 15 == 14:
            anywhere = rng.uniform([-1, -1, 0.05], [1, 1, 0.9], (200, 3))
            over_block = world.block_xyz[np.arange(200), rng.integers(5, size=200)] + [0, 0, 0.08]
            xyz = np.where(rng.random((200, 1)) < 0.5, anywhere, over_block)
            world.teleport_gripper(rng.random(200) < 0.5, xyz, rng.uniform(-0.5, 0.5, 200))
        world.step(expert(world))
    world.clock[:] = 0
    _finish(world)
    assert world.finished.all()


def test_low_over_a_distractor_it_lifts_first(red_to_purple: World) -> None:
    red_to_purple.teleport_gripper(np.ones(1, bool), np.array([[-0.7, -0.7, 0.08]]), np.zeros(1))
    action = expert(red_to_purple)[0]
    np.testing.assert_allclose(action[:3], [0, 0, 1], atol=1e-6)


def test_free_space_is_one_straight_line_at_full_speed(red_to_purple: World) -> None:
    red_to_purple.teleport_gripper(np.ones(1, bool), np.array([[0.9, -0.3, 0.34]]), np.zeros(1))
    actions = expert_chunk(red_to_purple, 8)[0]
    np.testing.assert_allclose(actions[:, :3], np.tile([-1, 0, 0], (8, 1)), atol=1e-5)
    assert np.linalg.norm(np.diff(actions, axis=0), axis=-1).max() < 1e-5


def test_continuity_drops_where_the_fingers_close(red_to_purple: World) -> None:
    red_to_purple.gripper[0, 2] = 0.12
    actions = expert_chunk(red_to_purple, 6)[0]
    jumps = np.linalg.norm(np.diff(actions, axis=0), axis=-1)
    closing = int(np.argmax(actions[:, 6] > 0))
    assert closing > 0
    assert jumps[closing - 1] > 2.0
    np.testing.assert_array_equal(actions[closing, :6], 0)


def test_a_wrong_block_is_put_down_outside_the_bins(red_to_purple: World, act: Callable[..., np.ndarray]) -> None:
    wrong = int(np.flatnonzero(red_to_purple.block_present[0])[1])
    red_to_purple.teleport_gripper(np.ones(1, bool), red_to_purple.block_xyz[:, wrong] + [0, 0, 0.07], np.zeros(1))
    act(red_to_purple, close=True)
    red_to_purple.teleport_gripper(np.ones(1, bool), np.array([[-0.4, 0.6, 0.4]]), np.zeros(1))
    assert red_to_purple.held[0] == wrong
    while red_to_purple.held[0] != NOTHING:
        red_to_purple.step(expert(red_to_purple))
    assert not red_to_purple.done[0]
    _finish(red_to_purple)
    assert red_to_purple.finished[0]


def test_a_chunk_is_the_experts_own_future_and_leaves_the_world_alone(kind: SuiteKind) -> None:
    world = World.sample(kind, np.arange(20))
    for _ in range(30):
        world.step(expert(world))
    before = world.clone()
    chunk = expert_chunk(world, 8)
    for name, value in vars(before).items():
        np.testing.assert_array_equal(value, vars(world)[name])
    assert chunk.shape == (20, 8, 7) and chunk.dtype == np.float32
    for step in range(8):
        np.testing.assert_array_equal(chunk[:, step], expert(world))
        world.step(chunk[:, step])


def test_a_chunk_stops_where_the_next_instruction_is_not_known_yet() -> None:
    world = World.sample("chain", np.array([3]))
    while world.score[0] == 0:
        before = world.clone()
        world.step(expert(world))
    chunk = expert_chunk(before, 5)[0]
    assert chunk[0, 6] == -1.0
    np.testing.assert_array_equal(chunk[1:], np.tile(IDLE, (4, 1)))
