"""What there is to draw: every bin, block and finger as a stack of flat rectangles, in painting order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dyslctl.suites.tabletop import geometry as geo
from dyslctl.suites.tabletop.world import World

TABLE = np.array([0.62, 0.60, 0.57], np.float32)
FLOOR = np.array([0.36, 0.37, 0.40], np.float32)
BLOCK_RGB = np.array(
    [
        [0.88, 0.10, 0.10],
        [0.10, 0.66, 0.18],
        [0.12, 0.25, 0.92],
        [0.98, 0.90, 0.10],
        [1.00, 1.00, 1.00],
        [0.04, 0.04, 0.05],
    ],
    np.float32,
)
"""In the order of ``COLOURS``."""
BIN_RGB = np.array([[0.58, 0.18, 0.72], [1.00, 0.55, 0.10]], np.float32)
BIN_FLOOR_SHADE = 0.55
GRIPPER_RGB = np.array([0.16, 0.24, 0.28], np.float32)
PALM_RGB = np.array([0.30, 0.42, 0.47], np.float32)
BLOCK_SLICES = ((0.0, 0.55), (0.5, 0.72), (1.0, 1.0))
"""(share of the block's height, shade): darker below, so that the sides look like sides."""
FINGER_HALF, PALM_HALF = (0.02, 0.05), (0.12, 0.05)
FINGER_HEIGHTS, PALM_HEIGHT = (0.0, 0.1), 0.18


@dataclass(frozen=True)
class Slice:
    """One horizontal rectangle: height above the prism's base, half sides, colour ``[3]`` or ``[B, 3]`` in 0 to 1."""

    height: float
    half: tuple[float, float]
    rgb: np.ndarray


@dataclass(frozen=True)
class Prism:
    """Rectangles stacked on one vertical axis, the lowest first.

    Attributes:
        base: ``[B, 3]``.
        yaw: ``[B]`` radians.
        present: ``[B]`` bool.
    """

    base: np.ndarray
    yaw: np.ndarray
    present: np.ndarray
    slices: tuple[Slice, ...]

    @property
    def reach(self) -> float:
        """Radius of a circle around the axis that covers every slice."""
        return max(float(np.hypot(*part.half)) for part in self.slices)

    @property
    def top(self) -> float:
        """Height of the highest slice above the base."""
        return max(part.height for part in self.slices)


def table_prisms(world: World) -> Iterator[Prism]:
    """Bins, then blocks from low to high and from far to near: what lies behind is painted first."""
    for index in range(len(geo.BINS)):
        yield _bin(world, index)
    order = np.argsort(world.block_xyz[..., 2] * 10 - world.block_xyz[..., 1], axis=1)
    for rank in range(geo.MAX_BLOCKS):
        block = _block(world, order[:, rank])
        if block.present.any():
            yield block


def fingers(world: World) -> Iterator[Prism]:
    """Both fingers, as far apart as the gripper is open."""
    for side in (-1.0, 1.0):
        reach = side * (geo.BLOCK_HALF * (0.4 + world.aperture))
        along = np.stack([np.cos(world.gripper_yaw), np.sin(world.gripper_yaw), np.zeros(len(world))], -1)
        slices = tuple(Slice(height, FINGER_HALF, GRIPPER_RGB) for height in FINGER_HEIGHTS)
        yield _on_gripper(world, world.gripper + reach[:, None] * along, slices)


def palm(world: World) -> Prism:
    """The hand that carries the fingers."""
    return _on_gripper(world, world.gripper, (Slice(PALM_HEIGHT, PALM_HALF, PALM_RGB),))


def _bin(world: World, index: int) -> Prism:
    inner = geo.RELEASE_TOLERANCE + geo.BLOCK_HALF
    rgb = BIN_RGB[index]
    slices = (
        Slice(0.0, (geo.BIN_HALF, geo.BIN_HALF), rgb),
        Slice(0.0, (inner, inner), rgb * np.float32(BIN_FLOOR_SHADE)),
    )
    count = len(world)
    base = np.column_stack([world.bin_xy[:, index], np.zeros(count)]).astype(np.float32)
    return Prism(base, np.zeros(count, np.float32), np.ones(count, bool), slices)


def _block(world: World, slot: np.ndarray) -> Prism:
    scene = np.arange(len(world))
    rgb = BLOCK_RGB[world.block_colour[scene, slot]]
    half = (geo.BLOCK_HALF, geo.BLOCK_HALF)
    slices = tuple(Slice(share * geo.BLOCK_HEIGHT, half, rgb * np.float32(shade)) for share, shade in BLOCK_SLICES)
    return Prism(world.block_xyz[scene, slot], world.block_yaw[scene, slot], world.block_present[scene, slot], slices)


def _on_gripper(world: World, base: np.ndarray, slices: tuple[Slice, ...]) -> Prism:
    return Prism(base.astype(np.float32), world.gripper_yaw, np.ones(len(world), bool), slices)
