"""CALVIN's own environment: made without a data set, begun anew for every episode, stepped without painting."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dyslctl.errors import EnvironmentMismatch
from dyslctl_calvin.initial_states import ROBOT_OBS, Placement, Scene
from dyslctl_calvin.installation import Installation
from dyslctl_calvin.settings import Look

Info = Mapping[str, Any]
"""What the official oracle compares: poses, joints, lights and contacts."""

ACTION_DIM = 7
CONTROL_FREQUENCY = 30
"""Actions a second; physics runs at 240 Hz."""


class Simulator:
    """One scene, physics only.

    Attributes:
        scene: Which of the four.
        env: ``calvin_env``'s environment; what the expert looks at.
    """

    def __init__(self, installation: Installation, scene: Scene) -> None:
        self.scene, self._installation = scene, installation
        self.env: Any = make_env(installation, scene)

    def begin(self, placement: Placement) -> None:
        """Build the world anew and put everything in its place.

        The official reset moves things in the world there is. Velocities, contacts, motors, the last command of the
        fingers and the state of the button outlive it, so that an episode depends on those before it.
        """
        env = self.env
        env.seed(0)
        env.scene.np_random = env.np_random
        env.robot.gripper_action = 1
        with _own_client(), _quiet():
            env.load()
        order = tuple(block.name.removeprefix("block_") for block in env.scene.movable_objects)
        env.reset(robot_obs=ROBOT_OBS.copy(), scene_obs=placement.scene_obs(order))

    def step(self, action: np.ndarray) -> None:
        """Execute ``[7]`` float16: the environment's own step, without its cameras."""
        env = self.env
        env.robot.apply_action(action)
        for _ in range(env.action_repeat):
            env.p.stepSimulation(physicsClientId=env.cid)
        env.scene.step()

    def info(self) -> Info:
        """The state as the oracle compares it."""
        info: Info = self.env.get_info()
        return info

    def solved(self, task: str, start: Info, now: Info) -> bool:
        """The official oracle: is ``task`` done between ``start`` and ``now``?"""
        return bool(self._oracle.get_task_info_for_set(start, now, {task}))

    def proprio(self) -> np.ndarray:
        """``[15]`` float32, CALVIN's ``robot_obs``: see :data:`~dyslctl_calvin.initial_states.ROBOT_OBS`."""
        return np.asarray(self.env.robot.get_observation()[0], np.float32)

    def close(self) -> None:
        """Free the simulator."""
        self.env.close()

    @cached_property
    def _oracle(self) -> Any:
        omegaconf, tasks = import_module("omegaconf"), import_module("calvin_env.envs.tasks")
        table = omegaconf.OmegaConf.load(self._installation.root / "conf" / "tasks" / "new_playtable_tasks.yaml")
        return tasks.Tasks(table.tasks)


def make_env(installation: Installation, scene: Scene, look: Look | None = None) -> Any:
    """``calvin_env``'s environment of a scene, configured from its own files alone.

    Args:
        installation: Where those are.
        scene: Which of the four.
        look: Of the pictures; ``None``: without cameras. With ``fast`` the world is to be loaded once only.

    Raises:
        EnvironmentMismatch: If EGL is asked for and its plugin does not load.
    """
    play_table = _imported()
    play_table.get_git_commit_hash = lambda path: installation.fingerprint  # wants a Git repository
    make: Callable[..., Any] = import_module("hydra.utils").instantiate
    with _own_client(), _quiet(), TemporaryDirectory() as scratch:
        node = configuration(installation, scene, look)
        if look is not None and look.renderer == "fast":
            node.robot_cfg.filename = str(_coarse_arm(installation, node.robot_cfg.filename, Path(scratch)))
        egl = look is not None and look.renderer == "egl"
        try:
            env = make(node, show_gui=False, use_vr=False, use_scene_info=True, use_egl=egl)
        except SystemExit as error:
            raise EnvironmentMismatch(
                "PyBullet's EGL plugin does not load",
                hint="apt-get install -y libegl1 libgl1-mesa-dri, or export DYSLCTL_CALVIN_RENDERER=tiny",
            ) from error
    # Its own prints on stdout, also when it is collected. This one frees it once, at the latest as the process ends.
    env.close = weakref.finalize(env, _free, env.p, env.cid)
    return env


def _free(client: Any, number: int) -> None:
    """Free a world, and let nobody do it again: PyBullet gives its number to the next one."""
    with _quiet():
        import_module("pybullet").disconnect(physicsClientId=number)
    client._client = -1  # of which the client would free what it finds when it is collected


def _coarse_arm(installation: Installation, robot: str, folder: Path) -> Path:
    """The description of ``robot``, written to ``folder``, painted by the shapes that collisions are found with.

    Links 1 to 6 and the hand have nine tenths of a scene's triangles, and PyBullet's painter looks at each of them for
    every picture. The environment itself paints links 0 and 7 so.
    """
    described = installation.root / "data" / robot
    text = re.sub(r"meshes/visual/(link[1-6]|hand)\.obj", r"meshes/collision/\1.obj", described.read_text())
    coarse = folder / described.name
    coarse.write_text(text.replace("package://", f"{described.parent}/"))
    return coarse


def configuration(installation: Installation, scene: Scene, look: Look | None) -> Any:
    """The ``env`` node that ``config_data_collection`` composes to, with both cameras if there is a ``look``.

    The released evaluation reads the composed file out of the data set; these are the parts it is made of.
    """
    conf, OmegaConf = installation.root / "conf", import_module("omegaconf").OmegaConf
    robot = OmegaConf.merge(*(OmegaConf.load(conf / "robot" / f"{n}.yaml") for n in ("panda", "panda_longer_finger")))
    del robot["defaults"]
    views = ("static", "gripper") if look else ()
    whole = OmegaConf.create(
        {
            "seed": 0,
            "data_path": str(installation.root / "data"),
            "use_vr": False,
            "cameras": {view: OmegaConf.load(conf / "cameras" / "cameras" / f"{view}.yaml") for view in views},
            "env": OmegaConf.load(conf / "env" / "play_table_env.yaml"),
            "scene": OmegaConf.load(conf / "scene" / f"calvin_scene_{scene}.yaml"),
            "robot": robot,
        }
    )
    if look is not None:
        whole.cameras.static.update({"width": look.image_size, "height": look.image_size})
    return whole.env


class _OwnClient:
    """PyBullet, where a call that names no world means the one named last.

    ``calvin_env`` leaves it out of a few calls while it loads, which then go to the first world of the process: the
    second robot's pedestal would stand there, and be missing here.
    """

    def __init__(self, pybullet: Any) -> None:
        self._pybullet, self._last = pybullet, 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._pybullet, name)
        return self._bound(found) if callable(found) and name not in ("connect", "error") else found

    def _bound(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self._last = named.setdefault("physicsClientId", self._last)
            return function(*args, **named)

        return call


@contextmanager
def _own_client() -> Iterator[None]:
    """Let ``calvin_env`` load through :class:`_OwnClient`."""
    modules = [import_module(f"calvin_env.{name}") for name in ("envs.play_table_env", "robot.robot")]
    pybullet = modules[0].p
    ours = _OwnClient(pybullet)
    for module in modules:
        module.p = ours  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in modules:
            module.p = pybullet  # type: ignore[attr-defined]


@cache
def _imported() -> Any:
    """The module of ``calvin_env``'s environment. What its imports have to say to a user is nothing."""
    with warnings.catch_warnings(), _quiet(1, 2):
        warnings.simplefilter("ignore")
        return import_module("calvin_env.envs.play_table_env")


@contextmanager
def _quiet(*descriptors: int) -> Iterator[None]:
    """Nothing on ``descriptors``; by default on stdout, which is for results, and where Bullet prints in C."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptors = descriptors or (1,)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    kept = [os.dup(descriptor) for descriptor in descriptors]
    try:
        for descriptor in descriptors:
            os.dup2(nowhere, descriptor)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        ctypes.CDLL(None).fflush(None)
        for copy, descriptor in zip(kept, descriptors, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(nowhere)
