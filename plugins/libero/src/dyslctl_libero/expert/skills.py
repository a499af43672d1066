"""Pick and place, with a second and a third try."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from dyslctl_libero.expert.grasps import Grasp, across, at_knob, at_rim
from dyslctl_libero.expert.hand import CLOSED, OPEN, Actions, Hand
from dyslctl_libero.expert.scene import raised

TRIES = 3
CLOSING_STEPS = 11
"""Steps until closing fingers hold firmly."""
OPENING_STEPS = 6
"""Steps until opening fingers let go."""
LIFTED = 0.04
"""An object this much higher than before is held, m."""
LEANING = 0.3
"""How far a hand that carries may lean, rad: stretched out, the arm sets it upright slowly."""
FAR = 0.62
"""What is carried passes no further from the shoulder than this, m: a straight elbow is a singularity, and stays so."""


class PickAndPlace:
    """Skills for one object after the other."""

    def __init__(self, hand: Hand) -> None:
        self.hand, self.scene = hand, hand.scene
        self._yaw = hand.start_yaw
        self._held_at = 0.0

    def pick(self, name: str, travel: float) -> Generator[np.ndarray, None, bool]:
        """Grasp ``name`` and lift the hand to the height ``travel`` (m). Returns whether it is held."""
        for _ in range(TRIES):
            height = self.scene.position(name)[2]
            yield from self.hand.hold(1, OPEN)
            grasp = self._plan(name)
            yield from self._grasp(grasp, travel)
            yield from self._lift(name, grasp, travel)
            self._yaw = grasp.yaw
            self._held_at = self._distance(name)
            if self.scene.position(name)[2] > height + LIFTED:
                return True
            self.hand.fingers = OPEN
        return False

    def place(self, name: str, xy: np.ndarray, bottom: float, clear: float) -> Actions:
        """Carry ``name`` over ``xy`` with its bottom above ``clear``, lower it to ``bottom`` (m), let go, retreat."""
        offset = self._offset(name)
        half_way = self.scene.hand
        half_way[:2] += 0.5 * (xy + offset[:2] - half_way[:2])
        yield from self.hand.go(self._drawn_in(half_way), self._yaw, within=0.04, turned=LEANING, steps=40, speed=0.8)
        for _ in range(2):
            if self._dropped(name):
                return
            low = self.scene.hand[2] - self.scene.points(name)[:, 2].min()
            above = np.array([*(xy + self._offset(name)[:2]), max(bottom + 0.05, clear) + low])
            yield from self.hand.go(
                above, self._yaw, within=0.012, turned=LEANING, speed=0.8, until=lambda: self._dropped(name)
            )
        drop = self.scene.points(name)[:, 2].min() - bottom
        down = np.array([*(xy + self._offset(name)[:2]), self.scene.hand[2] - drop])
        yield from self.hand.go(down, self._yaw, within=0.006, steps=60, speed=0.5)
        yield from self.hand.hold(OPENING_STEPS, OPEN)
        yield from self.hand.go(raised(self.scene.hand, 0.10), self._yaw, within=0.02, steps=25)

    def _plan(self, name: str) -> Grasp:
        plan = at_rim if "bowl" in name or "mug" in name else at_knob if name.startswith("moka_pot") else across
        return plan(self.scene, name, self.hand.start_yaw)

    def _grasp(self, grasp: Grasp, travel: float) -> Actions:
        point, yaw, hand = grasp.point, grasp.yaw, self.hand
        above = np.array([*point[:2], max(point[2] + 0.10, min(self.scene.hand[2], travel))])
        yield from hand.go(above, yaw, within=0.015)
        yield from hand.go(raised(point, 0.06), yaw, within=0.006, turned=0.05, steps=40)
        yield from hand.go(point, yaw, within=0.005, steps=45, speed=0.6)
        hand.fingers = CLOSED
        for _ in range(CLOSING_STEPS):
            yield hand.toward(point, yaw, 0.3)

    def _lift(self, name: str, grasp: Grasp, travel: float) -> Actions:
        point, yaw = grasp.point, grasp.yaw
        clear = point[2] + max(0.05, self._walls(name) + 0.015)
        yield from self.hand.go(np.array([*point[:2], min(clear, travel)]), yaw, within=0.02, speed=0.8, steps=25)
        yield from self.hand.go(
            self._drawn_in(np.array([*point[:2], travel])), yaw, within=0.02, speed=0.8, steps=40,
            until=lambda: bool(self.scene.hand[2] > travel - 0.015),
        )  # fmt: skip

    def _drawn_in(self, point: np.ndarray) -> np.ndarray:
        """``point`` ``[3]``, moved towards the shoulder if it is beyond :data:`FAR`."""
        shoulder = self.scene.shoulder[:2]
        way = point[:2] - shoulder
        return np.array([*(shoulder + way * min(1.0, FAR / float(np.linalg.norm(way)))), point[2]])

    def _walls(self, name: str) -> float:
        """How high (m) the surroundings, within 6 cm, stand above the object's bottom; at most 16 cm."""
        points = self.scene.points(name)
        low, high = points.min(0), points.max(0)
        tops = [
            box.center[2] + box.extent[2]
            for box in self.scene.obstacles(name)
            if (box.center[:2] + box.extent[:2] > low[:2] - 0.06).all()
            and (box.center[:2] - box.extent[:2] < high[:2] + 0.06).all()
        ]
        return float(min(max([low[2], *tops]) - low[2], 0.16))

    def _offset(self, name: str) -> np.ndarray:
        return np.asarray(self.scene.hand - self.scene.position(name))

    def _distance(self, name: str) -> float:
        return float(np.linalg.norm(self._offset(name)))

    def _dropped(self, name: str) -> bool:
        return self._distance(name) > self._held_at + 0.05
