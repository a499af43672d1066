"""LIBERO's own environment: made without its prompt, log file and downloads, and reset without reloading its model."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dyslctl.errors import PluginError
from dyslctl_libero.installation import Installation

CONTROL_FREQUENCY = 20
"""Actions a second."""
PLACEMENT_TRIES = 100


def make(installation: Installation, suite: str, task: str) -> Any:
    """The environment of a task, physics only. Its model is loaded once and kept by all resets."""
    with seeded(0):
        return _control_env(installation.assets)(
            bddl_file_name=str(installation.root / "bddl_files" / suite / f"{task}.bddl"),
            has_offscreen_renderer=False,
            use_camera_obs=False,
            control_freq=CONTROL_FREQUENCY,
            hard_reset=False,
        )


def fixtures(env: Any) -> dict[str, int]:
    """Fixture -> its root body: cabinet, stove, rack, microwave. The table is none of them."""
    return {name: env.env.obj_body_id[name] for name in env.env.fixtures_dict if name in env.env.obj_body_id}


def reset(env: Any) -> dict[str, np.ndarray]:
    """Draw a placement from NumPy's global generator. Returns what the sensors report.

    Raises:
        PluginError: If the sampler finds no room for all objects.
    """
    model = env.env.sim.model
    for body in fixtures(env).values():
        # As in a model just loaded: what stands on a fixture is placed by its pose plus where its sites are now.
        model.body_pos[body], model.body_quat[body] = 0, (1, 0, 0, 0)
    # ControlEnv.reset tries again after any error, for ever; here only after the sampler's own.
    crowded = import_module("robosuite.utils.errors").RandomizationError
    for _ in range(PLACEMENT_TRIES):
        try:
            observed: dict[str, np.ndarray] = env.env.reset()
        except crowded:
            continue
        # The hand's own memory of the last episode; loading the model anew would lose it.
        gripper = env.env.robots[0].gripper
        gripper.current_action = np.zeros_like(gripper.current_action)
        return observed
    raise PluginError(f"{env.env.bddl_file_name}: {PLACEMENT_TRIES} draws find no room for all objects")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The scene's samplers draw from NumPy's global generator; nobody else shall notice."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


@cache
def _control_env(scene_files: Path) -> Any:
    _quiet_robosuite()
    # LIBERO looks for scene files in its own folder and else downloads them: told beforehand, it does neither.
    import_module("libero.libero")._assets_path_cache = str(scene_files)  # type: ignore[attr-defined]
    return import_module("libero.libero.envs.env_wrapper").ControlEnv


def _quiet_robosuite() -> None:
    """The private settings that robosuite asks for: no log file in the shared temporary folder, errors only."""
    if "robosuite" not in sys.modules:
        private = ModuleType("robosuite.macros_private")
        private.FILE_LOGGING_LEVEL = None  # type: ignore[attr-defined]
        private.CONSOLE_LOGGING_LEVEL = "ERROR"  # type: ignore[attr-defined]
        sys.modules[private.__name__] = private
    logging.getLogger("robosuite_logs").propagate = False
