"""One scene of LIBERO, physics only: what the released evaluation steps, without painting a picture at every step."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from dyslctl_libero import control
from dyslctl_libero.control import CONTROL_FREQUENCY
from dyslctl_libero.initial_states import fixture_poses, official_states
from dyslctl_libero.installation import Installation
from dyslctl_libero.snapshot import take
from dyslctl_libero.tasks import SuiteName

ACTION_DIM = 7
WAIT_STEPS = 10
"""Actions before an episode begins, in which dropped objects come to rest."""
IDLE = np.array([0, 0, 0, 0, 0, 0, -1], np.float64)
"""Stand still with open fingers."""
SNAPSHOT = "snapshot"


class Simulator:
    """The scene of one task.

    Attributes:
        suite: Whose task it is.
        task: Its id.
        env: robosuite's environment.
        observed: What its sensors reported last. They sample within the control step, not after it, and the pictures
            must show the same moment: a snapshot of what is visible is therefore one more sensor.
    """

    def __init__(self, installation: Installation, suite: SuiteName, task: str) -> None:
        self.suite, self.task = suite, task
        self._states = official_states(installation.root, suite, task)
        self._control = control.make(installation, suite, task)
        self.env: Any = self._control.env
        self._add_snapshot()
        self.observed: dict[str, np.ndarray] = {}

    @property
    def model(self) -> Any:
        """MuJoCo's model."""
        return self.env.sim.model._model

    @property
    def data(self) -> Any:
        """MuJoCo's data."""
        return self.env.sim.data._data

    def begin_official(self, trial: int) -> None:
        """Official initial state number ``trial``, then the wait."""
        self._reset(seed=0)
        bodies = control.fixtures(self._control)
        for fixture, pose in fixture_poses(self.suite, self.task, trial).items():
            body = bodies[fixture]
            self.model.body_pos[body], self.model.body_quat[body] = pose[:3], pose[3:]
        self.observed = self._control.set_init_state(self._states[trial])
        self._wait()

    def begin_seeded(self, seed: int) -> None:
        """A placement of the scene's own sampler, then the wait."""
        self._reset(seed)
        self._wait()

    def step(self, action: np.ndarray) -> bool:
        """Execute one action ``[7]``: is the task solved?"""
        self.observed, _, solved, _ = self.env.step(action)
        return bool(solved)

    def proprio(self) -> np.ndarray:
        """``[8]`` float32: position of the hand (m), its rotation as axis times angle (rad), both fingers (m)."""
        hand, rotation = self.observed["robot0_eef_pos"], axis_angle(self.observed["robot0_eef_quat"])
        return np.concatenate([hand, rotation, self.observed["robot0_gripper_qpos"]]).astype(np.float32)

    def close(self) -> None:
        """Free the simulator."""
        self._control.close()

    def _reset(self, seed: int) -> None:
        with control.seeded(seed):
            self.observed = control.reset(self._control)

    def _wait(self) -> None:
        for _ in range(WAIT_STEPS):
            self.step(IDLE)

    def _add_snapshot(self) -> None:
        observables = import_module("robosuite.utils.observables")

        @observables.sensor(modality=SNAPSHOT)  # type: ignore[untyped-decorator]
        def snapshot(_cache: dict[str, Any]) -> np.ndarray:
            return take(self.model, self.data)

        self.env.add_observable(observables.Observable(name=SNAPSHOT, sensor=snapshot, sampling_rate=CONTROL_FREQUENCY))


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """``[3]`` rotation axis times angle (rad, 0 to 2 pi) of a quaternion x y z w, as the released evaluation has it."""
    w = float(np.clip(quaternion[3], -1.0, 1.0))
    sine = np.sqrt(1.0 - w * w)
    if np.isclose(sine, 0.0):
        return np.zeros(3)
    return np.asarray(quaternion[:3] * 2.0 * np.arccos(w) / sine)
