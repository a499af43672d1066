"""The official initial states: what the benchmark ships, and what it leaves to the order of resets.

A shipped state holds robot and objects. Where cabinet, stove, rack or microwave stand is not in it: the released
evaluation seeds the scene's sampler once with 0, then resets before each trial, so that trial ``k`` gets the
``k + 1``-th draw (about 2 cm from the others). ``fixtures.npz`` keeps these draws, so that a trial is the same
whichever ran before it; ``python -m dyslctl_libero record-fixtures`` draws them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct

from dyslctl.errors import ArtifactError
from dyslctl_libero import control
from dyslctl_libero.installation import Installation
from dyslctl_libero.tasks import TASKS, TRIALS, SuiteName

FIXTURES = Path(__file__).with_name("fixtures.npz")
"""``SUITE/TASK NUMBER/FIXTURE`` -> ``[50, 7]`` float64 position (m) and quaternion (w x y z) of its root body."""

_NAMES = [f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")]
_SAFE: list[Any] = [*((_reconstruct, name) for name in _NAMES), np.ndarray, np.dtype, type(np.dtype(np.float64))]
"""All that a pickled array of numbers needs; whatever else a file asks for is refused."""


def official_states(root: Path, suite: SuiteName, task: str) -> np.ndarray:
    """``[50, D]`` float64: time, joint positions and velocities of each trial.

    Args:
        root: LIBERO's folder.
        suite: Whose task it is.
        task: Its id.

    Raises:
        ArtifactError: If the file is missing, damaged, or holds anything but numbers.
    """
    path = root / "init_files" / suite / f"{task}.pruned_init"
    try:
        with torch.serialization.safe_globals(_SAFE):
            states = np.asarray(torch.load(path, weights_only=True))
    except Exception as error:  # torch raises whatever the archive's parts raise
        raise ArtifactError(f"{path} cannot be read: {error}", hint="pip install --no-deps hf-libero again") from error
    if states.ndim != 2 or len(states) < TRIALS or states.dtype != np.float64:
        raise ArtifactError(f"{path}: expected [{TRIALS}, D] float64, found {list(states.shape)} {states.dtype}")
    return states


def fixture_poses(suite: SuiteName, task: str, trial: int) -> dict[str, np.ndarray]:
    """Fixture -> ``[7]`` position and quaternion in trial ``trial``, for those that move from reset to reset."""
    prefix = f"{suite}/{TASKS[suite].index(task)}/"
    return {key.removeprefix(prefix): poses[trial] for key, poses in _table().items() if key.startswith(prefix)}


def draw_fixture_poses(installation: Installation) -> dict[str, np.ndarray]:
    """The table in :data:`FIXTURES`, drawn as the released evaluation's resets draw: those that vary, ``[50, 7]`` each.

    A reset that loads the model anew appends the scene's joint samplers (open, closed, turned on) to a list that is
    never emptied, so that the ``k``-th reset draws them ``k`` times more. Here the model is kept and the list grows.
    """
    poses: dict[str, np.ndarray] = {}
    for suite, names in TASKS.items():
        for number, task in enumerate(names):
            env = control.make(installation, suite, task)
            drawn = draw_fixtures(env, TRIALS)
            env.close()
            moving = {name: rows for name, rows in drawn.items() if np.ptp(rows, axis=0).any()}
            poses |= {f"{suite}/{number}/{name}": rows for name, rows in moving.items()}
    return poses


def draw_fixtures(env: Any, count: int) -> dict[str, np.ndarray]:
    """Fixture -> ``[count, 7]``: its poses in the first ``count`` trials."""
    scene, rows = env.env, []
    samplers = list(scene.object_property_initializers)
    with control.seeded(0):
        for _ in range(count):
            scene.object_property_initializers = [*scene.object_property_initializers, *samplers]
            control.reset(env)
            model = scene.sim.model
            bodies = control.fixtures(env).values()
            rows.append([np.concatenate([model.body_pos[body], model.body_quat[body]]) for body in bodies])
    return {name: np.array([row[i] for row in rows]) for i, name in enumerate(control.fixtures(env))}


@cache
def _table() -> Mapping[str, np.ndarray]:
    with np.load(FIXTURES, allow_pickle=False) as file:
        return dict(file)
