"""The scripted expert: fast and smooth in free space, slow and hesitant where precision matters.

It is Markov in the state of the world, so it labels any state a policy gets into, not just those on its own path.
Two kinds of action give action continuity (Eq. 1 of the DySL-VLA paper) something to measure: full-speed straight
lines that hardly change from step to step, and corrections, stop-and-go descents and finger movements that do.
"""

from __future__ import annotations

import numpy as np

from dyslctl.suites.tabletop import geometry as geo
from dyslctl.suites.tabletop.world import NOTHING, World

HOVER_Z, CARRY_Z = 0.34, 0.40
"""Height of free-space travel, with empty fingers and with a block."""
RELEASE_Z = 0.10
NEAR = 0.13
"""Within this offset of the aim the expert stops travelling and starts aligning."""
ALIGNED, STILL_ALIGNED = 0.018, 0.03
"""Offset to begin the descent, and to go on with it: without hysteresis a policy dithers at the border."""
TURNED = 0.3
"""Yaw error (rad) that the compliant fingers may be left with."""
FLOOR_MARGIN = 0.03
"""The fingers move within this height above the lowest point."""
DESCENT_BAND = 0.09
"""Every other band of this height is crossed slowly."""
IDLE = np.array([0, 0, 0, 0, 0, 0, -1], np.float32)
"""Stand still with open fingers: after the instruction is solved, nothing more is known."""


def expert(world: World) -> np.ndarray:
    """The expert's next action in each scene.

    Returns:
        ``[B, 7]`` float32 in ``[-1, 1]``; :data:`IDLE` in scenes that are done.
    """
    carrying, wrong = world.held == world.target, (world.held != NOTHING) & (world.held != world.target)
    error = _aim(world, carrying) - np.concatenate([world.gripper, world.gripper_yaw[:, None]], -1)
    hover = np.where(carrying, CARRY_Z, HOVER_Z)
    height = world.gripper[:, 2] - np.where(carrying, RELEASE_Z, geo.GRASP_Z)
    offset = np.abs(error[:, :2]).max(-1)
    descending = world.gripper[:, 2] < hover - 0.06
    far = offset > NEAR
    aligned = (offset <= np.where(descending, STILL_ALIGNED, ALIGNED)) & (np.abs(error[:, 3]) < TURNED)
    ready = aligned & (height <= FLOOR_MARGIN) & (carrying | ~world.gripper_closed)

    fingers = np.where(carrying, 1.0, -1.0)
    arm = np.select(
        [ready[:, None], far[:, None], aligned[:, None]],
        [np.zeros((len(world), 6)), _travel(error, hover, world.gripper[:, 2]), _descend(error, height)],
        _align(error, hover - world.gripper[:, 2], descending & (offset < 0.05)),
    )
    actions = np.column_stack([arm, np.where(ready, -fingers, fingers)])
    actions = np.where(wrong[:, None], _put_down(world), actions)
    return np.where(world.done[:, None], IDLE, actions).astype(np.float32)


def expert_chunk(world: World, length: int) -> np.ndarray:
    """What the expert would do from here: ``[B, length, 7]`` float32. ``world`` is left as it is.

    Once the current instruction is solved the rest is :data:`IDLE`: the next instruction is not known yet.
    """
    future = world.clone()
    chunk = np.tile(IDLE, (len(world), length, 1))
    for step in range(length):
        busy = future.score == world.score
        chunk[busy, step] = expert(future)[busy]
        future.step(chunk[:, step])
    return chunk


def _aim(world: World, carrying: np.ndarray) -> np.ndarray:
    """``[B, 4]`` position above the block, or the bin, at travelling height, and yaw."""
    xy = np.where(carrying[:, None], world.goal_xy, world.target_xy)
    yaw = np.where(carrying, 0.0, world.block_yaw[np.arange(len(world)), world.target])
    return np.column_stack([xy, np.where(carrying, CARRY_Z, HOVER_Z), yaw])


def _arm(xyz: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """``[B, 6]`` arm action from translation ``[B, 3]`` and yaw ``[B]``; no roll, no pitch."""
    zero = np.zeros(len(yaw))
    return np.column_stack([xyz, zero, zero, yaw])


def _travel(error: np.ndarray, hover: np.ndarray, z: np.ndarray) -> np.ndarray:
    """A straight line at full speed; from below, first up and only gradually sideways."""
    steps = error[:, :3] / geo.STEP
    line = steps / np.maximum(np.abs(steps).max(-1, keepdims=True), 1.0)
    clearance = np.clip((z - 0.10) / 0.20, 0.0, 1.0)
    lift = np.column_stack([line[:, :2] * clearance[:, None], np.ones_like(z)])
    low = z < hover - 0.10
    return _arm(np.where(low[:, None], lift, line), _turn(error, 0.3))


def _align(error: np.ndarray, climb: np.ndarray, keep_height: np.ndarray) -> np.ndarray:
    """Hesitant corrections, one axis at a time: always the one with the larger error."""
    step = np.clip(error[:, :2] / geo.STEP, -0.4, 0.4)
    x_first = np.abs(error[:, 0]) >= np.abs(error[:, 1])
    xy = np.where(np.column_stack([x_first, ~x_first]), step, 0.0)
    z = np.where(keep_height, 0.0, np.clip(climb / geo.STEP, -0.5, 0.5))
    return _arm(np.column_stack([xy, z]), _turn(error, 0.5))


def _descend(error: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Stop and go: slow and fast bands of height in turn, with small corrections on the way."""
    slow = np.floor(height / DESCENT_BAND) % 2 == 0
    z = np.maximum(np.where(slow, -0.3, -0.9), -height / geo.STEP)
    return _arm(np.column_stack([np.clip(error[:, :2] / geo.STEP, -0.15, 0.15), z]), np.zeros(len(z)))


def _turn(error: np.ndarray, speed: float) -> np.ndarray:
    return np.clip(error[:, 3] / geo.YAW_STEP, -speed, speed)


def _put_down(world: World) -> np.ndarray:
    """Get rid of a wrong block: away from the bins, down, let go."""
    to_bins = np.abs(world.bin_xy - world.gripper[:, None, :2]).max(-1)
    over_bin = (to_bins < geo.BIN_HALF + 0.05).any(-1)
    height = world.gripper[:, 2] - geo.GRASP_Z
    low = ~over_bin & (height <= FLOOR_MARGIN)
    down = np.where(over_bin | low, 0.0, -np.minimum(height / geo.STEP, 1.0))
    actions = np.zeros((len(world), geo.ACTION_DIM))
    actions[:, 1] = np.where(over_bin, -1.0, 0.0)
    actions[:, 2] = down
    actions[:, 6] = np.where(low, -1.0, 1.0)
    return actions
