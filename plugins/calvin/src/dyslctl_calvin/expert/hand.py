"""Movements of the hand, as generators of actions: the scene has moved on whenever one continues."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from dyslctl_calvin.expert.scene import Scene

Actions = Iterator[np.ndarray]

OPEN, CLOSED = 1.0, -1.0
METRES, RADIANS = 0.02, 0.05
"""What an action of 1 asks for."""
ROLL, PITCH, YAW = 3.09, -0.029, 1.5
"""Angles of a hand that points down as it does when chains begin."""


def _never() -> bool:
    return False


class Hand:
    """The robot's hand.

    Attributes:
        scene: Where it is.
        fingers: :data:`OPEN` or :data:`CLOSED`, part of every action.
    """

    def __init__(self, scene: Scene, fingers: float) -> None:
        self.scene, self.fingers = scene, fingers

    def go(
        self,
        point: np.ndarray,
        *,
        yaw: float | None = None,
        pitch: float | None = None,
        speed: float = METRES,
        within: float = 0.008,
        steps: int = 120,
        until: Callable[[], bool] = _never,
    ) -> Actions:
        """Move in a straight line until ``point`` is ``within`` reach (m) of the hand, or ``until``, or ``steps``.

        ``yaw`` and ``pitch`` ``None`` keep what they are; ``speed`` is in m an action.
        """
        point = np.asarray(point, np.float64)
        for _ in range(steps):
            angles = self._angles_left(yaw, pitch)
            told = np.linalg.norm(point - self.scene.target) < 1e-3 and np.abs(angles).max() < 5e-3
            if (told and np.linalg.norm(point - self.scene.hand) < within) or until():
                return
            yield self._toward(point, angles, speed)

    def by(self, x: float = 0.0, y: float = 0.0, z: float = 0.0, **how: float) -> Actions:
        """Move by so much from where it was last told to be, m."""
        yield from self.go(self.scene.target + np.array([x, y, z]), **how)  # type: ignore[arg-type]

    def hold(self, steps: int, fingers: float) -> Actions:
        """Stay, with ``fingers`` so."""
        self.fingers = fingers
        for _ in range(steps):
            yield self._action(np.zeros(3), np.zeros(3))

    def turn(self, yaw: float, steps: int = 70) -> Actions:
        """Turn to ``yaw`` on the spot."""
        yield from self.go(self.scene.target, yaw=yaw, within=1.0, steps=steps)

    def _angles_left(self, yaw: float | None, pitch: float | None) -> np.ndarray:
        now = self.scene.target_angles
        return wrap(np.array([ROLL, now[1] if pitch is None else pitch, now[2] if yaw is None else yaw]) - now)

    def _toward(self, point: np.ndarray, angles: np.ndarray, speed: float) -> np.ndarray:
        move = point - self.scene.target
        move = move * min(1.0, speed / max(float(np.linalg.norm(move)), 1e-9))
        return self._action(move / METRES, np.clip(angles / RADIANS, -1, 1))

    def _action(self, move: np.ndarray, turn: np.ndarray) -> np.ndarray:
        return np.concatenate([move, turn, [self.fingers]]).astype(np.float32)


def wrap(angle: np.ndarray) -> np.ndarray:
    """Angles in ``[-pi, pi)``."""
    return np.asarray((angle + np.pi) % (2 * np.pi) - np.pi)


def nearest(yaw: float, start: float, period: float = np.pi) -> float:
    """``yaw`` or a multiple of ``period`` (rad) from it, whichever is nearest to ``start``."""
    return float(start + (yaw - start + period / 2) % period - period / 2)
