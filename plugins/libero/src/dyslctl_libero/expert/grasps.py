"""Where to grasp from above: fingers along the narrow side of an object, one inside the rim of a bowl, or at a knob."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dyslctl_libero.expert.scene import Box, Scene, raised

DEPTH = 0.027
"""Of a grasp below the top of an object, m: deeper, the palm presses on tall cartons, and they hang on a finger."""
FLAT = 0.05
"""An object lower than this is grasped half way up, m."""
WIDEST = 0.078
"""The fingers do not open further, m."""
BESIDE = (-0.02, 0.0, 0.02)
"""Of a grasp from an object's middle, m: a hand that lands on a neighbour has to push it away."""
FINGER = 0.02
"""How wide a finger is, m."""
RIM_DEPTH = 0.030
"""Of a grasp below the rim of a bowl, m: less slips."""
RIM_INSET = 0.004
"""Of a grasp from the rim's radius inwards, m."""
KNOB_DEPTH = 0.010
"""Of a grasp below the top of a lid's knob, m: deeper, the fingers stand on the lid."""
REACH = 0.66
"""From here on the arm is nearly straight when it lifts, m."""

_ACROSS, _UP = (-0.01, 0.01), (0, 0.02, 0.04, 0.06)
_FINGERS = np.array([[side * w, t, z] for side in (-1, 1) for w in (0.04, 0.052) for t in _ACROSS for z in _UP])
_PALM = np.array([[s, t, 0.105] for s in np.linspace(-0.1, 0.1, 9) for t in (-0.03, 0.03)])
_HAND = np.concatenate([_FINGERS, _PALM])
"""``[50, 3]`` points of the open hand (m): along the closing axis, across it, up."""


@dataclass(frozen=True)
class Grasp:
    """One way to grasp.

    Attributes:
        point: ``[3]`` of the finger tips' middle, m.
        yaw: Of the closing axis, rad.
        score: The higher the better.
    """

    point: np.ndarray
    yaw: float
    score: float


def across(scene: Scene, name: str, start_yaw: float) -> Grasp:
    """The best of 36 directions to close the fingers over an object, in its middle or beside that."""
    points, obstacles = scene.points(name), scene.obstacles(name)
    yaws = start_yaw + np.linspace(-np.pi / 2, np.pi / 2, 36, endpoint=False)
    grasps = (_across(points, obstacles, yaw, start_yaw, beside) for yaw in yaws for beside in BESIDE)
    return max(grasps, key=lambda grasp: grasp.score)


def at_rim(scene: Scene, name: str, start_yaw: float) -> Grasp:
    """The best of 48 places on the rim of a bowl or a mug, closing axis radial."""
    points, obstacles = scene.points(name), scene.obstacles(name)
    top = points[:, 2].max()
    rim = points[points[:, 2] > top - 0.006, :2]
    center = (rim.max(0) + rim.min(0)) / 2
    radius = float(np.median(np.linalg.norm(rim - center, axis=1))) - RIM_INSET
    angles = np.linspace(-np.pi, np.pi, 48, endpoint=False)
    spots = [np.array([*(center + radius * np.array([np.cos(a), np.sin(a)])), top - RIM_DEPTH]) for a in angles]
    grasps = [
        _rim(scene, spot, nearest(a, start_yaw), start_yaw, obstacles) for spot, a in zip(spots, angles, strict=True)
    ]
    return max(grasps, key=lambda grasp: grasp.score)


def at_knob(scene: Scene, name: str, start_yaw: float) -> Grasp:
    """The knob of a lid, fingers as they are: nothing on the lid is in their way."""
    knob = scene.knob(name)
    low, high = knob.min(0), knob.max(0)
    return Grasp(np.array([*(low + high)[:2] / 2, high[2] - KNOB_DEPTH]), start_yaw, 0.0)


def nearest(yaw: float, start_yaw: float) -> float:
    """``yaw`` or half a turn from it, whichever is nearer to ``start_yaw``: both fingers are alike."""
    return start_yaw + (yaw - start_yaw + np.pi / 2) % np.pi - np.pi / 2


def _across(points: np.ndarray, obstacles: Sequence[Box], yaw: float, start_yaw: float, beside: float) -> Grasp:
    top, bottom = points[:, 2].max(), points[:, 2].min()
    axes = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
    along = points[:, :2] @ axes.T
    low, high = along.min(0), along.max(0)
    width = high[0] - low[0]
    half_way = (top + bottom) / 2 if top - bottom < FLAT else bottom + 0.02
    middle = (low + high) / 2 + np.array([0, beside])
    point = np.array([*(middle @ axes), max(top - DEPTH, half_way, bottom + 0.012)])
    clearance = min(_clearance(point, yaw, obstacles), 0.02)
    score = -30 * max(width - 0.06, 0) - 2 * width + 20 * clearance - 0.1 * abs(yaw - start_yaw) - 5 * abs(beside)
    fits = width <= WIDEST and (beside == 0 or high[1] - low[1] > 2 * abs(beside) + FINGER)
    return Grasp(point, yaw, score - (0 if fits else 5))


def _rim(scene: Scene, point: np.ndarray, yaw: float, start_yaw: float, obstacles: Sequence[Box]) -> Grasp:
    clearance = min(_clearance(point, yaw, obstacles), 0.03)
    distance = float(np.linalg.norm(point - scene.shoulder))
    lifted = float(np.linalg.norm(raised(point, 0.2) - scene.shoulder))
    score = 30 * clearance - 100 * max(0, 0.013 - clearance) - 0.3 * abs(yaw - start_yaw)
    return Grasp(point, yaw, score - 1.5 * distance - 30 * max(0, lifted - REACH))


def _clearance(point: np.ndarray, yaw: float, obstacles: Sequence[Box]) -> float:
    """Distance (m) of the open hand at ``point`` to the nearest obstacle, at most 1; negative if they overlap."""
    along, side = np.array([np.cos(yaw), np.sin(yaw), 0]), np.array([-np.sin(yaw), np.cos(yaw), 0])
    hand = point + _HAND @ np.stack([along, side, [0, 0, 1]])
    return float(min([1.0, *(box.distance(hand).min() for box in obstacles)]))
