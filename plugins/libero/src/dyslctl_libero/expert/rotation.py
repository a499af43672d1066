"""Rotations about the vertical and between two orientations."""

from __future__ import annotations

import numpy as np


def about_z(angle: float) -> np.ndarray:
    """``[3, 3]`` rotation by ``angle`` (rad) about the vertical."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """``[3]`` axis times angle (rad) of a rotation ``[3, 3]``: its logarithm."""
    angle = np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1, 1))
    if angle < 1e-6:
        return np.zeros(3)
    skew = matrix - matrix.T
    axis = np.array([skew[2, 1], skew[0, 2], skew[1, 0]])
    return np.asarray(axis * angle / (2 * np.sin(angle) + 1e-9))
