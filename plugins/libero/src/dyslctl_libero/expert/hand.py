"""Movements of the hand, as generators of actions: the scene has moved on whenever one continues."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from dyslctl_libero.expert.grasps import nearest
from dyslctl_libero.expert.rotation import about_z, rotation_vector
from dyslctl_libero.expert.scene import Scene

Actions = Iterator[np.ndarray]

OPEN, CLOSED = -1.0, 1.0
METRES, RADIANS = 0.05, 0.5
"""What an action of 1 asks for."""
GAIN, TURN_GAIN = 2.0, 1.5
TURN_SPEED = 0.6
"""Largest rotation action."""
PATIENCE, PROGRESS = 10, 0.001
"""So many steps without coming nearer by so much (m) are the end of a movement: something is in the way, or the arm is
too straight to obey."""
RADIAN = 0.05
"""What a radian counts in this, m."""
_UP = np.array([0, 0, 1.0])


def _never() -> bool:
    return False


class Hand:
    """The robot's hand, fingers pointing down.

    Attributes:
        start_yaw: Of the closing axis at the beginning, rad.
        fingers: :data:`OPEN` or :data:`CLOSED`, part of every action.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.fingers = OPEN
        # The fingers close along one of the hand's own axes; its third points out of the palm.
        self._local_axis = np.round(scene.hand_axes.T @ scene.closing_axis)
        axis = scene.hand_axes @ self._local_axis
        self.start_yaw = float(np.arctan2(axis[1], axis[0]))
        flat, down, out = np.array([axis[0], axis[1], 0]) / np.hypot(axis[0], axis[1]), -_UP, _UP
        local = np.stack([self._local_axis, np.cross(out, self._local_axis), out], 1)
        self._vertical = np.stack([flat, np.cross(down, flat), down], 1) @ local.T

    @property
    def yaw(self) -> float:
        """Of the closing axis now, rad."""
        axis = self.scene.hand_axes @ self._local_axis
        return nearest(float(np.arctan2(axis[1], axis[0])), self.start_yaw)

    def toward(self, point: np.ndarray, yaw: float, speed: float = 1.0) -> np.ndarray:
        """``[7]`` float32: the next action on the straight line to ``point``, at most ``speed``."""
        move = _limited(GAIN * (point - self.scene.hand) / METRES, speed)
        turn = _limited(TURN_GAIN * self._turn_left(yaw) / RADIANS, TURN_SPEED)
        action = np.concatenate([move, turn, [self.fingers]]).astype(np.float32)
        return np.asarray(np.clip(action, -1, 1))

    def go(
        self,
        point: np.ndarray,
        yaw: float,
        *,
        within: float = 0.01,
        turned: float = 0.08,
        steps: int = 90,
        speed: float = 1.0,
        until: Callable[[], bool] = _never,
    ) -> Actions:
        """Move until ``point`` is ``within`` reach (m) and the hand is ``turned`` (rad), or ``until``, or ``steps``.

        Sooner, if it comes no nearer.
        """
        nearest_yet, stalled = np.inf, 0
        for _ in range(steps):
            distance, turn = np.linalg.norm(point - self.scene.hand), np.linalg.norm(self._turn_left(yaw))
            left = float(distance + RADIAN * turn)
            nearest_yet, stalled = (left, 0) if left < nearest_yet - PROGRESS else (nearest_yet, stalled + 1)
            if (distance < within and turn < turned) or until() or stalled == PATIENCE:
                return
            yield self.toward(point, yaw, speed)

    def hold(self, steps: int, fingers: float) -> Actions:
        """Stay where the hand is, with ``fingers`` so."""
        self.fingers = fingers
        point, yaw = self.scene.hand, self.yaw
        for _ in range(steps):
            yield self.toward(point, yaw)

    def _turn_left(self, yaw: float) -> np.ndarray:
        """``[3]`` rotation vector from here to fingers down at ``yaw``, rad."""
        return rotation_vector(about_z(yaw - self.start_yaw) @ self._vertical @ self.scene.hand_axes.T)


def _limited(vector: np.ndarray, largest: float) -> np.ndarray:
    """``vector`` scaled down until no entry is larger than ``largest``."""
    return np.asarray(vector * min(1.0, largest / max(float(np.abs(vector).max()), 1e-9)))
