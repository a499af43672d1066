"""Two pinhole cameras, one in front of the table and one above the wrist. Image coordinates: 0 to 1, right and down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

AGENT_EYE = np.array([0.0, -1.35, 2.25])
AGENT_LOOK_AT = np.array([0.0, 0.02, 0.1])
AGENT_FIELD_OF_VIEW = np.radians(45.0)
WRIST_HEIGHT = 0.45
"""The wrist camera looks straight down from this far above the gripper and turns with it."""
WRIST_HALF_WIDTH = 0.5
"""Half the width that the wrist camera sees, per unit of distance."""


@dataclass(frozen=True)
class Pinhole:
    """A fixed camera: unit vectors ``[3]`` of its frame and half its image width per unit of distance."""

    eye: np.ndarray
    forward: np.ndarray
    right: np.ndarray
    up: np.ndarray
    half_width: float


def look_at(eye: np.ndarray, at: np.ndarray, field_of_view: float) -> Pinhole:
    """A camera at ``eye [3]`` that has ``at [3]`` in the middle of its upright square image."""
    forward = (at - eye) / np.linalg.norm(at - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return Pinhole(eye, forward, right, np.cross(right, forward), float(np.tan(field_of_view / 2)))


AGENT = look_at(AGENT_EYE, AGENT_LOOK_AT, AGENT_FIELD_OF_VIEW)


def project_agent(points: np.ndarray) -> np.ndarray:
    """World points ``[..., 3]`` in the agent image: ``[..., 2]`` float32, outside ``[0, 1]`` if out of view."""
    ray = points - AGENT.eye
    scale = agent_depth(points) * AGENT.half_width
    return _image(ray @ AGENT.right / scale, ray @ AGENT.up / scale)


def agent_depth(points: np.ndarray) -> np.ndarray:
    """Distance of points ``[..., 3]`` from the agent camera along its axis, ``[...]``."""
    return np.asarray((points - AGENT.eye) @ AGENT.forward)


def agent_rays(size: int) -> np.ndarray:
    """Where the rays through the pixel centres go: change of ``x, y`` per unit of ``z``, ``[size, size, 2]``."""
    centre = (np.arange(size) + 0.5) / size * 2 - 1
    u, v = np.meshgrid(centre * AGENT.half_width, -centre * AGENT.half_width)
    ray = AGENT.forward + u[..., None] * AGENT.right + v[..., None] * AGENT.up
    return np.asarray(ray[..., :2] / ray[..., 2:], np.float32)


def project_wrist(gripper: np.ndarray, yaw: np.ndarray, points: np.ndarray) -> np.ndarray:
    """World points in the wrist image.

    Args:
        gripper: ``[B, 3]``, ``World.gripper``.
        yaw: ``[B]`` radians, ``World.gripper_yaw``.
        points: ``[B, M, 3]``, below the camera.

    Returns:
        ``[B, M, 2]`` float32, outside ``[0, 1]`` if out of view.
    """
    offset = points - gripper[:, None]
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    right = offset[..., 0] * cos + offset[..., 1] * sin
    up = -offset[..., 0] * sin + offset[..., 1] * cos
    scale = (WRIST_HEIGHT - offset[..., 2]) * WRIST_HALF_WIDTH
    return _image(right / scale, up / scale)


def _image(right: np.ndarray, up: np.ndarray) -> np.ndarray:
    """From ``[-1, 1]``, up positive, to ``[0, 1]``, down positive."""
    return np.stack([(right + 1) / 2, (1 - up) / 2], -1).astype(np.float32)
