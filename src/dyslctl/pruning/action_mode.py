"""Coarse or fine: how precise the coming action must be, judged by the last one (SpecPrune-VLA, section 6).

    v_t = |(dx, dy, dz)|      v_r = |(droll, dpitch, dyaw)|                             (10, 11)

The arm is slow where it grasps and places, and there it goes down or stays level. Fine mode begins when both speeds are
below their thresholds and ``dz <= 0``; it ends when one of them is exceeded, whatever ``dz``. Else nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dyslctl.errors import ConfigError
from dyslctl.pruning.settings import PruningSettings

Mode = Literal["coarse", "fine"]
ONE_ARM = 7
"""Translation, rotation, gripper."""


@dataclass(frozen=True)
class Velocity:
    """Displacement of the end effector in one control step, in the model's normalised space.

    Attributes:
        translation: ``v_t``.
        rotation: ``v_r``.
        rise: ``dz``.
    """

    translation: float
    rotation: float
    rise: float


def check_action(action_dim: int) -> None:
    """Whether an action is a displacement of one end effector.

    Raises:
        ConfigError: If it has too many dimensions: two arms, or joints.
    """
    if action_dim > ONE_ARM:
        raise ConfigError(
            f"specprune tells fine from coarse by an end effector's displacement: expected at most {ONE_ARM} action "
            f"dimensions, found {action_dim}",
            hint="divprune and fastv prune by no action",
        )


def velocity(action: np.ndarray, gripper_dim: int | None) -> Velocity:
    """How fast one action ``[A]`` is: three dimensions of translation, then three of rotation, as far as there are."""
    pose = action if gripper_dim is None else np.delete(action, gripper_dim)
    moved, turned = pose[:3], pose[3:6]
    return Velocity(float(np.linalg.norm(moved)), float(np.linalg.norm(turned)), float(moved[2:].sum()))


def next_mode(mode: Mode, last: Velocity, settings: PruningSettings) -> Mode:
    """The mode after an action that was as fast as ``last``."""
    if mode == "fine":
        exceeded = last.translation > settings.fine_translation or last.rotation > settings.fine_rotation
        return "coarse" if exceeded else "fine"
    slow = last.translation < settings.fine_translation and last.rotation < settings.fine_rotation
    return "fine" if slow and last.rise <= 0 else "coarse"
