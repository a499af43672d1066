"""What only a scripted expert may look at: where things are, which way blocks are turned, what touches what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

HEIGHT = 0.04
"""Of every block, and its least width, m."""
LENGTHS = {"small": 0.04, "middle": 0.056, "big": 0.08}
DOOR, DRAWER = 0, 1
"""Places among the simulator's doors."""


@dataclass(frozen=True, eq=False)
class Block:
    """One block.

    Attributes:
        name: As the simulator calls it, ``block_red``.
        body: Its number.
        position: ``[3]``, m.
        axes: ``[3, 3]``, its own axes as columns.
        size: ``[3]`` edges along its own axes, m.
    """

    name: str
    body: int
    position: np.ndarray
    axes: np.ndarray
    size: np.ndarray

    @property
    def flat(self) -> list[tuple[float, float]]:
        """Its two horizontal axes: angle (rad) and edge along it (m), the shorter edge first."""
        upright = int(np.argmax(np.abs(self.axes[2])))
        sides = [axis for axis in range(3) if axis != upright]
        found = [(float(np.arctan2(self.axes[1, axis], self.axes[0, axis])), float(self.size[axis])) for axis in sides]
        return sorted(found, key=lambda side: side[1])

    @property
    def height(self) -> float:
        """Edge along its upright axis, m."""
        return float(self.size[int(np.argmax(np.abs(self.axes[2])))])

    @property
    def extent(self) -> np.ndarray:
        """``[3]`` half edges of the upright box around it, m."""
        return np.asarray(np.abs(self.axes) @ self.size / 2)


class Scene:
    """The state of one environment, read afresh at every call."""

    def __init__(self, env: Any) -> None:
        self.env, self._p, self._cid = env, env.p, env.cid
        self._table = env.scene.fixed_objects[0]

    @property
    def hand(self) -> np.ndarray:
        """``[3]`` where the point between the finger tips is, m."""
        return self._link_of(self.env.robot.robot_uid, self.env.robot.tcp_link_id)

    @property
    def target(self) -> np.ndarray:
        """``[3]`` where it was last told to be, m: actions add to this."""
        return np.array(self.env.robot.target_pos)

    @property
    def target_angles(self) -> np.ndarray:
        """``[3]`` Euler angles it was last told to have, rad."""
        return np.array(self.env.robot.target_orn)

    @property
    def opening(self) -> float:
        """Width between the fingers, m."""
        return float(self.env.robot.get_observation()[0][6])

    def link(self, name: str) -> np.ndarray:
        """``[3]`` origin of a part of the table, m, such as ``button_link``, ``switch_link`` or ``slide_link``."""
        return self._link_of(self._table.uid, self._table.info_dict["links"][name])

    def joint(self, door: int) -> float:
        """How far :data:`DOOR` or :data:`DRAWER` is from closed, or from the right, m."""
        return float(self.env.scene.doors[door].get_state())

    def door_end(self, side: int) -> float:
        """Where :data:`DOOR` is when it stands on ``side``: -1 left, 1 right; m."""
        door = self.env.scene.doors[DOOR]
        limits = self._p.getJointInfo(door.uid, door.joint_index, physicsClientId=self._cid)[8:10]
        return float(limits[1] if side < 0 else limits[0])

    @property
    def switch(self) -> float:
        """How far the switch is up, rad."""
        return float(self.env.scene.switches[0].get_state())

    @property
    def blocks(self) -> list[Block]:
        """All three."""
        return [self._block(thing) for thing in self.env.scene.movable_objects]

    def block(self, colour: str) -> Block:
        """The red, blue or pink one."""
        return next(block for block in self.blocks if block.name == f"block_{colour}")

    def held(self) -> Block | None:
        """The block that both fingers touch, or the one that the hand alone carries."""
        for block in self.blocks:
            fingers = {contact[4] for contact in self.contacts(block) if contact[2] == self.env.robot.robot_uid}
            if len(fingers) > 1:
                return block
        return None

    def contacts(self, block: Block) -> list[Any]:
        """PyBullet's contact points of ``block``."""
        return list(self._p.getContactPoints(bodyA=block.body, physicsClientId=self._cid))

    def touches(self, block: Block, link: str) -> bool:
        """Does ``block`` touch this part of the table?"""
        number = self._table.info_dict["links"][link]
        return any((c[2], c[4]) == (self._table.uid, number) for c in self.contacts(block))

    def stacked(self) -> Block | None:
        """The block that lies on another one."""
        bodies = {block.body for block in self.blocks}
        on_blocks = [b for b in self.blocks if {c[2] for c in self.contacts(b)} & bodies]
        return max(on_blocks, key=lambda block: block.position[2], default=None)

    def _link_of(self, body: int, link: int) -> np.ndarray:
        state = self._p.getLinkState(body, link, computeForwardKinematics=1, physicsClientId=self._cid)
        return np.array(state[4])

    def _block(self, thing: Any) -> Block:
        position, quaternion = self._p.getBasePositionAndOrientation(thing.uid, physicsClientId=self._cid)
        axes = np.reshape(self._p.getMatrixFromQuaternion(quaternion), (3, 3))
        length = LENGTHS[thing.file.stem.rpartition("_")[2]]
        return Block(thing.name, thing.uid, np.array(position), axes, np.array([length, HEIGHT, HEIGHT]))
