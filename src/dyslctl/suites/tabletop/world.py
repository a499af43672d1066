"""The table top: many parallel scenes of blocks, two bins and a gripper, in plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from dyslctl.errors import PluginError
from dyslctl.suites.tabletop import geometry as geo
from dyslctl.suites.tabletop.layout import sample_layout
from dyslctl.suites.tabletop.tasks import SuiteKind, instruction, task_of

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

NOTHING = -1
"""``held`` of an empty gripper."""


@dataclass
class World:
    """``B`` scenes that share nothing but the code. float32, table units, radians.

    Attributes:
        kind: The suite all scenes belong to.
        seeds: ``[B]`` int64, what each initial state derives from.
        gripper: ``[B, 3]``, the point between the finger tips.
        gripper_yaw: ``[B]``.
        gripper_closed: ``[B]`` bool.
        held: ``[B]`` int64, slot of the held block or :data:`NOTHING`.
        block_xyz: ``[B, 5, 3]``, centre of each block's bottom face; ``z`` is 0 on the table.
        block_yaw: ``[B, 5]``.
        block_present: ``[B, 5]`` bool; absent slots are never seen or touched.
        block_placed: ``[B, 5]`` bool, delivered for good: stays in its bin's rim.
        block_colour: ``[B, 5]`` int64, index into ``COLOURS``.
        bin_xy: ``[B, 2, 2]``, centres of the purple and the orange bin.
        targets: ``[B, S]`` int64, the block slot of each instruction in turn.
        goals: ``[B, S]`` int64, the bin of each instruction in turn.
        score: ``[B]`` int64, instructions solved so far.
        clock: ``[B]`` int64, actions since the current instruction began.
        failed: ``[B]`` bool, a block went into a bin where it does not belong.
    """

    kind: SuiteKind
    seeds: Integers
    gripper: Floats
    gripper_yaw: Floats
    gripper_closed: Booleans
    held: Integers
    block_xyz: Floats
    block_yaw: Floats
    block_present: Booleans
    block_placed: Booleans
    block_colour: Integers
    bin_xy: Floats
    targets: Integers
    goals: Integers
    score: Integers
    clock: Integers
    failed: Booleans

    # --- life cycle ----------------------------------------------------------------------------------------
    @classmethod
    def sample(cls, kind: SuiteKind, seeds: np.ndarray) -> World:
        """Initial states of ``seeds [B]``, the same ones that an ``Environment`` starts from."""
        seeds = np.asarray(seeds, np.int64)
        layouts = [sample_layout(kind, int(seed)) for seed in seeds]

        def stack(name: str) -> np.ndarray:
            return np.stack([getattr(layout, name) for layout in layouts])

        count, blocks = len(seeds), (len(seeds), geo.MAX_BLOCKS)
        return cls(
            kind=kind,
            seeds=seeds,
            gripper=stack("gripper"),
            gripper_yaw=np.zeros(count, np.float32),
            gripper_closed=np.zeros(count, bool),
            held=np.full(count, NOTHING),
            block_xyz=np.concatenate([stack("block_xy"), np.zeros((*blocks, 1), np.float32)], -1),
            block_yaw=stack("block_yaw"),
            block_present=stack("block_present"),
            block_placed=np.zeros(blocks, bool),
            block_colour=stack("block_colour"),
            bin_xy=stack("bin_xy"),
            targets=stack("targets"),
            goals=stack("goals"),
            score=np.zeros(count, np.int64),
            clock=np.zeros(count, np.int64),
            failed=np.zeros(count, bool),
        )

    def clone(self, index: np.ndarray | None = None) -> World:
        """An independent copy of all scenes, or of those that ``index`` (bool ``[B]`` or int ``[K]``) picks."""
        pick = np.arange(len(self)) if index is None else index
        return World(self.kind, *(getattr(self, name)[pick] for name in _ARRAYS))

    def reset_where(self, mask: np.ndarray, seeds: np.ndarray) -> None:
        """Begin new episodes in the scenes of ``mask [B]``, one of ``seeds [mask.sum()]`` each, in order."""
        if len(seeds) == 0:
            return
        fresh = World.sample(self.kind, seeds)
        for name in _ARRAYS:
            getattr(self, name)[mask] = getattr(fresh, name)

    def __len__(self) -> int:
        return len(self.seeds)

    # --- what the robot is asked ---------------------------------------------------------------------------
    @property
    def stage(self) -> Integers:
        """``[B]`` int64, the current instruction of each chain; the last one once all are solved."""
        return np.asarray(np.minimum(self.score, self.targets.shape[1] - 1))

    @property
    def target(self) -> Integers:
        """``[B]`` int64, slot of the block to pick up."""
        return self.targets[self._scenes, self.stage]

    @property
    def goal(self) -> Integers:
        """``[B]`` int64, the bin to place it in."""
        return self.goals[self._scenes, self.stage]

    @property
    def target_xy(self) -> Floats:
        """``[B, 2]``."""
        return self.block_xyz[self._scenes, self.target, :2]

    @property
    def goal_xy(self) -> Floats:
        """``[B, 2]``."""
        return self.bin_xy[self._scenes, self.goal]

    @property
    def finished(self) -> Booleans:
        """``[B]`` bool, every instruction is solved."""
        return np.asarray(self.score == self.targets.shape[1])

    @property
    def done(self) -> Booleans:
        """``[B]`` bool, finished, failed or out of time: further steps change nothing."""
        return np.asarray(self.finished | self.failed | (self.clock >= geo.STEPS_PER_INSTRUCTION))

    def instructions(self) -> list[str]:
        """The current instruction of each scene, in words."""
        pairs = zip(self.seeds.tolist(), self.stage.tolist(), strict=True)
        return [instruction(self.kind, task_of(seed), stage) for seed, stage in pairs]

    # --- what the robot feels ------------------------------------------------------------------------------
    @property
    def aperture(self) -> Floats:
        """``[B]`` float32, opening of the fingers from 0 to 1."""
        shut = np.where(self.held == NOTHING, geo.APERTURE_SHUT, geo.APERTURE_HOLDING)
        return np.where(self.gripper_closed, shut, geo.APERTURE_OPEN).astype(np.float32)

    def proprio(self) -> Floats:
        """``[B, 8]`` float32 as LIBERO reports it: position, axis-angle ``(0, 0, yaw)``, two finger positions."""
        finger = self.aperture * np.float32(geo.FINGER_TRAVEL)
        zero = np.zeros_like(finger)
        return np.concatenate([self.gripper, np.stack([zero, zero, self.gripper_yaw, finger, -finger], -1)], -1)

    # --- what the robot does -------------------------------------------------------------------------------
    def step(self, actions: np.ndarray) -> np.ndarray:
        """Execute one action in each scene that is not done. The arm moves first, then the fingers.

        Args:
            actions: ``[B, 7]``, clipped to ``[-1, 1]``; the gripper closes where the last entry is positive.

        Returns:
            ``[B]`` bool, scenes whose current instruction this action solved.

        Raises:
            PluginError: If ``actions`` has another shape or is not finite.
        """
        actions = self._checked(actions)
        alive = ~self.done
        self._move(np.where(alive[:, None], actions, 0.0))
        close = actions[:, 6] > 0
        grasping = alive & close & ~self.gripper_closed
        releasing = alive & ~close & self.gripper_closed
        self.gripper_closed = np.where(alive, close, self.gripper_closed)
        self._grasp(grasping & (self.gripper[:, 2] < geo.GRASP_MAX_Z))
        self.clock += alive
        return self._release(releasing & (self.held != NOTHING))

    def teleport_gripper(self, mask: np.ndarray, xyz: np.ndarray, yaw: np.ndarray) -> None:
        """Put the grippers of ``mask [B]`` at ``xyz [B, 3]``, ``yaw [B]``, clipped to reach. Held blocks come along."""
        self.gripper[mask] = np.clip(xyz, geo.GRIPPER_LOW, geo.GRIPPER_HIGH)[mask]
        self.gripper_yaw[mask] = np.clip(yaw, -geo.YAW_LIMIT, geo.YAW_LIMIT)[mask]
        self._carry()

    @property
    def _scenes(self) -> Integers:
        return np.arange(len(self))

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions, np.float32)
        expected = (len(self), geo.ACTION_DIM)
        if actions.shape != expected:
            raise PluginError(f"table top: expected actions of shape {list(expected)}, found {list(actions.shape)}")
        if not np.isfinite(actions).all():
            bad = int(np.flatnonzero(~np.isfinite(actions).all(-1))[0])
            raise PluginError(f"table top: expected finite actions, found {actions[bad].tolist()} in scene {bad}")
        return np.asarray(np.clip(actions, -1.0, 1.0))

    def _move(self, actions: np.ndarray) -> None:
        self.gripper = np.clip(self.gripper + actions[:, :3] * geo.STEP, geo.GRIPPER_LOW, geo.GRIPPER_HIGH)
        self.gripper_yaw = np.clip(self.gripper_yaw + actions[:, 5] * geo.YAW_STEP, -geo.YAW_LIMIT, geo.YAW_LIMIT)
        self._carry()

    def _carry(self) -> None:
        """Held blocks hang below the gripper and turn with it."""
        scene = np.flatnonzero(self.held != NOTHING)
        slot = self.held[scene]
        self.block_xyz[scene, slot] = self.gripper[scene] - np.array([0.0, 0.0, geo.GRASP_Z], np.float32)
        self.block_yaw[scene, slot] = self.gripper_yaw[scene]

    def _grasp(self, closing: np.ndarray) -> None:
        """Catch the nearest block between the fingers; a grasp that catches none knocks away what it touches."""
        away = self.block_xyz[..., :2] - self.gripper[:, None, :2]
        offset = np.abs(_rotate(away, -self.gripper_yaw)).max(-1)
        loose = self.block_present & ~self.block_placed & closing[:, None]
        straight = np.abs(self.block_yaw - self.gripper_yaw[:, None]) <= geo.GRASP_YAW_TOLERANCE
        caught = loose & (offset <= geo.GRASP_TOLERANCE) & straight
        nearest = np.where(caught, offset, np.inf).argmin(-1)
        self.held = np.where(caught.any(-1), nearest, self.held)
        self._knock(loose & ~caught.any(-1, keepdims=True) & (offset < geo.KNOCK_REACH), away)
        self._carry()

    def _knock(self, hit: np.ndarray, away: np.ndarray) -> None:
        push = away / np.maximum(np.linalg.norm(away, axis=-1, keepdims=True), 1e-6) * geo.KNOCK_DISTANCE
        pushed = np.clip(self.block_xyz[..., :2] + push, -geo.KNOCK_LIMIT, geo.KNOCK_LIMIT)
        self.block_xyz[..., :2] = np.where(hit[..., None], pushed, self.block_xyz[..., :2])

    def _release(self, releasing: np.ndarray) -> np.ndarray:
        """Let go: solved, failed (it fell into a bin in any other way), or just put down on the table."""
        scene = np.flatnonzero(releasing)
        slot = self.held[scene]
        offset = np.abs(self.bin_xy[scene] - self.block_xyz[scene, slot, None, :2]).max(-1)
        to_goal = offset[np.arange(len(scene)), self.goal[scene]]
        placed = (slot == self.target[scene]) & (to_goal <= geo.RELEASE_TOLERANCE)
        placed &= self.gripper[scene, 2] < geo.RELEASE_MAX_Z
        self.failed[scene] = ~placed & (offset < geo.BIN_HALF).any(-1)
        self.block_xyz[scene, slot, 2] = 0.0
        self.held[scene] = NOTHING
        solved = np.zeros(len(self), bool)
        solved[scene[placed]] = True
        self._settle(solved)
        return solved

    def _settle(self, solved: np.ndarray) -> None:
        """Solved blocks slide to the next free slot along the rim of their bin, and the next instruction begins."""
        scene = np.flatnonzero(solved)
        earlier = np.arange(self.targets.shape[1]) < self.score[scene, None]
        taken = (earlier & (self.goals[scene] == self.goal[scene, None])).sum(-1)
        slot = self.target[scene]
        self.block_xyz[scene, slot, :2] = self.goal_xy[scene] + geo.BIN_SLOTS[taken]
        self.block_placed[scene, slot] = True
        self.score[scene] += 1
        self.clock[scene] = 0


_ARRAYS = tuple(field.name for field in fields(World) if field.name != "kind")


def _rotate(xy: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """``xy [B, M, 2]`` turned by ``angle [B]``."""
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = xy[..., 0], xy[..., 1]
    return np.stack([x * cos - y * sin, x * sin + y * cos], -1)
