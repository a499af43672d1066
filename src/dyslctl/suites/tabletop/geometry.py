"""The measures of the table top. Lengths are in table units: the table is ``[-1, 1]`` wide and deep, ``z`` points up.

Every number a reader may want to change is here; ``docs`` and tests quote them by name.
"""

from __future__ import annotations

import numpy as np

MAX_BLOCKS = 5
"""Block slots of a scene; ``block_present`` says which are used."""
BINS = ("purple", "orange")
COLOURS = ("red", "green", "blue", "yellow", "white", "black")

# --- the robot: what one full-scale action does ------------------------------------------------------------
ACTION_DIM = 7
"""``dx dy dz droll dpitch dyaw gripper`` in ``[-1, 1]``, LIBERO's executed convention; roll and pitch do nothing."""
STEP = 0.05
"""Length of a full step along one axis."""
YAW_STEP = 0.15
"""Radians of a full turn about ``z``."""
GRIPPER_LOW = np.array([-1.0, -1.0, 0.05], np.float32)
GRIPPER_HIGH = np.array([1.0, 1.0, 0.9], np.float32)
YAW_LIMIT = 0.8
APERTURE_OPEN, APERTURE_HOLDING, APERTURE_SHUT = 1.0, 0.32, 0.0
"""Opening of the fingers, 0 to 1."""
FINGER_TRAVEL = 0.04
"""``gripper_qpos`` of a wide open finger, as LIBERO's Panda reports it."""

# --- blocks and bins ---------------------------------------------------------------------------------------
BLOCK_HALF = 0.07
BLOCK_HEIGHT = 0.14
BIN_HALF = 0.20
BIN_SLOTS = np.array([(-0.13, 0.13), (0.0, 0.13), (0.13, 0.13), (-0.13, -0.13), (0.13, -0.13)], np.float32)
"""Where placed blocks slide to, relative to the bin's centre: the rim fills up, the centre stays free."""

# --- what counts as a grasp and as a release ---------------------------------------------------------------
GRASP_Z = 0.07
"""Gripper height at which the fingers surround a block on the table; a held block hangs this far below."""
GRASP_MAX_Z = 0.11
"""Closing above this height touches nothing."""
GRASP_TOLERANCE = 0.045
"""Largest offset, per axis of the gripper's frame, of a block that is caught."""
GRASP_YAW_TOLERANCE = 0.6
"""Largest yaw error that the compliant fingers turn straight."""
KNOCK_REACH = 0.14
"""A failed grasp pushes blocks within this offset ..."""
KNOCK_DISTANCE = 0.12
"""... this far away."""
KNOCK_LIMIT = 0.85
"""A pushed block stays within this square."""
RELEASE_TOLERANCE = 0.06
"""Largest offset, per axis, between a released block and the centre of its bin."""
RELEASE_MAX_Z = 0.16
"""A block let go above this gripper height is dropped, not placed."""

STEPS_PER_INSTRUCTION = 160
"""Time limit of one instruction, in actions."""
