"""All that a picture depends on, as one vector, and the painter that turns it into pictures later."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from dyslctl_calvin.initial_states import Scene
from dyslctl_calvin.installation import Installation
from dyslctl_calvin.settings import Look
from dyslctl_calvin.simulator import make_env

VIEWS = ("static", "gripper")
"""CALVIN's two cameras: 200 x 200 pixels (:class:`Look` may say another number) from across the table, 84 x 84 from the
hand."""
_POSE = 7
"""Position and quaternion."""


def take(env: Any) -> np.ndarray:
    """``[D]`` float64: every joint of robot and table, every block's pose, every lamp, and where the hand's camera is.

    The camera could be told from the joints, but the simulator's own camera reads a link state that is one physics
    step old, up to 3 mm behind the hand (``getLinkState`` without ``computeForwardKinematics``). Released data were
    painted so.
    """
    joints = [state[0] for body in _jointed(env) for state in _joints(env, body)]
    blocks = [_pose(env, block.uid) for block in env.scene.movable_objects]
    return np.concatenate([joints, *blocks, [lamp.get_state() for lamp in env.scene.lights], _camera_pose(env)])


class Painter:
    """Paints snapshots of one scene, in a world of its own: whoever looks, and when, changes no episode.

    The world is made with the first picture: who wants none needs no renderer.
    """

    def __init__(self, installation: Installation, scene: Scene, look: Look) -> None:
        self._installation, self._scene, self._look = installation, scene, look

    def paint(self, snapshot: np.ndarray) -> tuple[np.ndarray, ...]:
        """One upright picture a camera, ``[side, side, 3]`` uint8."""
        env = self._env
        put(env, snapshot[:-_POSE])
        static, gripper = env.cameras
        views = static.render()[0], _render_from(env, gripper, snapshot[-_POSE:])
        return tuple(np.ascontiguousarray(view, np.uint8) for view in views)

    @cached_property
    def _env(self) -> Any:
        return make_env(self._installation, self._scene, self._look)


painter = lru_cache(maxsize=4)(Painter)
"""One painter a scene and process, shared by all who have something to paint: each holds a world."""


def put(env: Any, snapshot: np.ndarray) -> None:
    """Show joints, blocks and lamps of the same scene in another world."""
    rest = snapshot
    for body in _jointed(env):
        count = len(_joints(env, body))
        for joint, value in enumerate(rest[:count]):
            env.p.resetJointState(body, joint, value, physicsClientId=env.cid)
        rest = rest[count:]
    for block in env.scene.movable_objects:
        env.p.resetBasePositionAndOrientation(block.uid, rest[:3], rest[3:_POSE], physicsClientId=env.cid)
        rest = rest[_POSE:]
    for lamp, state in zip(env.scene.lights, rest, strict=True):
        lamp.reset(int(state))


def _jointed(env: Any) -> list[int]:
    return [env.robot.robot_uid, *(thing.uid for thing in env.scene.fixed_objects)]


def _joints(env: Any, body: int) -> list[Any]:
    count = env.p.getNumJoints(body, physicsClientId=env.cid)
    states: list[Any] = env.p.getJointStates(body, list(range(count)), physicsClientId=env.cid)
    return states


def _pose(env: Any, body: int) -> np.ndarray:
    position, quaternion = env.p.getBasePositionAndOrientation(body, physicsClientId=env.cid)
    return np.concatenate([position, quaternion])


def _camera_pose(env: Any) -> np.ndarray:
    """``[7]`` of the link that carries the hand's camera."""
    link = env.p.getLinkState(env.robot.robot_uid, _camera_link(env), physicsClientId=env.cid)
    return np.concatenate(link[:2])


def _camera_link(env: Any) -> int:
    """Its number: the simulator's camera looks for this name, too."""
    robot = env.robot.robot_uid
    links = range(env.p.getNumJoints(robot, physicsClientId=env.cid))
    return next(i for i in links if env.p.getJointInfo(robot, i, physicsClientId=env.cid)[12] == b"gripper_cam")


def _render_from(env: Any, camera: Any, pose: np.ndarray) -> np.ndarray:
    """``[side, side, 3]``: what the hand's ``camera`` shows from ``pose`` ``[7]``. It looks along y, upside is -z."""
    _, forward, down = np.reshape(env.p.getMatrixFromQuaternion(pose[3:]), (3, 3)).T
    image = env.p.getCameraImage(
        width=camera.width,
        height=camera.height,
        viewMatrix=env.p.computeViewMatrix(pose[:3], pose[:3] + forward, -down),
        projectionMatrix=env.p.computeProjectionMatrixFOV(camera.fov, camera.aspect, camera.nearval, camera.farval),
        physicsClientId=env.cid,
    )
    rgb: np.ndarray = camera.process_rgbd(image, camera.nearval, camera.farval)[0]
    return rgb
