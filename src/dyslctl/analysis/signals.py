"""What a robot's own motion says about how much the coming action matters: rival signals, from executed actions alone.

Continuity is Eq. 1 of DySL-VLA, the speeds are (10) and (11) of SpecPrune-VLA, and a gripper that opens or closes is
where objects are grasped and released.
"""

from __future__ import annotations

import numpy as np

from dyslctl.dysl.continuity import Continuity, ContinuityTracker
from dyslctl.dysl.guidance import GuidanceSettings
from dyslctl.pruning.action_mode import Mode, next_mode, velocity
from dyslctl.pruning.settings import PRUNING

K = GuidanceSettings.k


class Signals:
    """The signals after each chunk of executed actions of one instruction."""

    def __init__(self, gripper_dim: int | None) -> None:
        """``gripper_dim``: index of the gripper in an action, or ``None``."""
        self._gripper_dim = gripper_dim
        self.reset()

    def reset(self) -> None:
        """A new episode or instruction begins."""
        self._tracker = ContinuityTracker(K)
        self._mode: Mode = "coarse"
        self._gripper: float | None = None

    def preview(self, actions: np.ndarray) -> dict[str, float]:
        """What the signals would be if ``actions`` ``[n, A]`` (normalised, gripper as executed) came next."""
        return self._read(actions, self._tracker.preview(actions))

    def commit(self, actions: np.ndarray) -> dict[str, float]:
        """``actions`` are executed.

        Returns:
            ``continuity``: ``C`` after them; ``delta``: the lowest ``delta C`` among them (both absent while
            undefined); ``speed``, ``turning``, ``rise``: of the last action; ``fine``: 1 in SpecPrune's fine mode;
            ``flip``: 1 if the gripper opened or closed, absent without a gripper.
        """
        found = self._read(actions, self._tracker.commit(actions))
        self._mode = "fine" if found["fine"] else "coarse"
        if self._gripper_dim is not None:
            self._gripper = float(actions[-1, self._gripper_dim])
        return found

    def _read(self, actions: np.ndarray, continuity: Continuity) -> dict[str, float]:
        last, end = velocity(actions[-1], self._gripper_dim), continuity.values[-1]
        found = {"speed": last.translation, "turning": last.rotation, "rise": last.rise}
        found["fine"] = float(next_mode(self._mode, last, PRUNING) == "fine")
        deltas = [delta for delta in continuity.deltas if delta is not None]
        found |= {"continuity": end} if end is not None else {}
        found |= {"delta": min(deltas)} if deltas else {}
        if self._gripper_dim is not None:
            gripper = actions[:, self._gripper_dim]
            before = gripper[0] if self._gripper is None else self._gripper
            found["flip"] = float(np.any(np.diff(np.concatenate([[before], gripper])) != 0))
        return found
