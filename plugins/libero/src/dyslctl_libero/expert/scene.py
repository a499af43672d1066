"""What only a scripted expert may look at: poses and collision shapes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)


def raised(point: np.ndarray, height: float) -> np.ndarray:
    """``point`` ``[3]`` lifted by ``height`` (m)."""
    return np.asarray(point + np.array([0, 0, height]))


@dataclass(frozen=True)
class Box:
    """An oriented box.

    Attributes:
        center: ``[3]``, m.
        axes: ``[3, 3]``, its axes as columns.
        half: ``[3]`` half edges, m.
    """

    center: np.ndarray
    axes: np.ndarray
    half: np.ndarray

    def distance(self, points: np.ndarray) -> np.ndarray:
        """``[n]`` signed distances (m) of ``points`` ``[n, 3]``; negative inside."""
        beyond = np.abs((points - self.center) @ self.axes) - self.half
        outside = np.linalg.norm(np.maximum(beyond, 0), axis=1)
        return np.asarray(outside + np.minimum(beyond.max(1), 0))

    @property
    def extent(self) -> np.ndarray:
        """``[3]`` half edges of the upright box around it, m."""
        return np.asarray(np.abs(self.axes) @ self.half)


class Scene:
    """The state of one robosuite environment, read afresh at every call.

    Args:
        env: robosuite's environment.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self._mujoco = import_module("mujoco")
        self._site = env.sim.model.site_name2id("gripper0_grip_site")
        self._robot = self._family("robot0_base")

    @property
    def _model(self) -> Any:
        return self.env.sim.model._model

    @property
    def _data(self) -> Any:
        return self.env.sim.data._data

    @property
    def hand(self) -> np.ndarray:
        """``[3]`` the point between the finger tips, m."""
        return np.array(self._data.site_xpos[self._site])

    @property
    def hand_axes(self) -> np.ndarray:
        """``[3, 3]`` orientation of the hand."""
        return np.array(self._data.site_xmat[self._site]).reshape(3, 3)

    @property
    def closing_axis(self) -> np.ndarray:
        """``[3]`` unit vector from the right finger to the left one."""
        left, right = (self._body(f"gripper0_{side}finger") for side in ("left", "right"))
        return np.asarray((left - right) / np.linalg.norm(left - right))

    @property
    def shoulder(self) -> np.ndarray:
        """``[3]`` where the arm begins, m: how far it reaches is measured from here."""
        return raised(self._body("robot0_base"), 0.33)

    def goals(self) -> list[list[str]]:
        """What must hold in the end, e.g. ``["on", "bowl_1", "plate_1"]``."""
        return [list(goal) for goal in self.env.parsed_problem["goal_state"]]

    def holds(self, goal: list[str]) -> bool:
        """Does ``goal`` hold now?"""
        return bool(self.env._eval_predicate(goal))

    def is_object(self, name: str) -> bool:
        """Is ``name`` something that can be moved?"""
        return name in self.env.objects_dict

    def is_region(self, name: str) -> bool:
        """Is ``name`` a place on or in something?"""
        return name in self.env.object_sites_dict

    def region(self, name: str) -> np.ndarray:
        """``[3]`` middle of a region, m."""
        return np.array(self.env.sim.data.get_site_xpos(name))

    def position(self, name: str) -> np.ndarray:
        """``[3]`` origin of an object, m."""
        return np.array(self._data.xpos[self.env.obj_body_id[name]])

    def points(self, name: str) -> np.ndarray:
        """``[n, 3]`` corners of an object's collision shapes, m."""
        return np.concatenate(self._shapes(name))

    def knob(self, name: str) -> np.ndarray:
        """``[n, 3]`` corners of an object's highest collision shape, m."""
        return max(self._shapes(name), key=lambda corners: float(corners[:, 2].max(initial=-np.inf)))

    def obstacles(self, name: str) -> list[Box]:
        """Boxes around the collision shapes of everything but robot and object ``name``."""
        own = self._robot | self._object_bodies(name)
        geoms = [geom for geom in self._collision_geoms() if self._model.geom_bodyid[geom] not in own]
        boxes = [(geom, self._half(geom)) for geom in geoms]
        return [Box(*self._pose(geom), half) for geom, half in boxes if half is not None]

    def surface(self, xy: np.ndarray, name: str) -> float:
        """Height (m) of what is under ``xy``, object ``name`` and robot left out."""
        tops = [
            box.center[2] + box.extent[2]
            for box in self.obstacles(name)
            if (np.abs(box.center[:2] - xy) <= box.extent[:2]).all()
        ]
        return float(max(tops))

    def _body(self, name: str) -> np.ndarray:
        return np.array(self.env.sim.data.get_body_xpos(name))

    def _shapes(self, name: str) -> list[np.ndarray]:
        bodies = self._object_bodies(name)
        return [self._corners(geom) for geom in self._collision_geoms() if self._model.geom_bodyid[geom] in bodies]

    def _object_bodies(self, name: str) -> set[int]:
        return self._family(self.env.objects_dict[name].root_body)

    def _family(self, root: str) -> set[int]:
        """A body and all that hangs on it. Parents come before their children in MuJoCo's order."""
        family = {int(self.env.sim.model.body_name2id(root))}
        for body in range(self._model.nbody):
            if int(self._model.body_parentid[body]) in family:
                family.add(body)
        return family

    def _collision_geoms(self) -> list[int]:
        solid = (self._model.geom_contype + self._model.geom_conaffinity) > 0
        return [int(geom) for geom in np.flatnonzero(solid)]

    def _pose(self, geom: int) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self._data.geom_xpos[geom]), np.array(self._data.geom_xmat[geom]).reshape(3, 3)

    def _half(self, geom: int) -> np.ndarray | None:
        """``[3]`` half edges of the box around a shape in its own axes; ``None`` for a plane."""
        size, kinds = self._model.geom_size[geom], self._mujoco.mjtGeom
        match self._model.geom_type[geom]:
            case kinds.mjGEOM_BOX:
                return np.array(size)
            case kinds.mjGEOM_CYLINDER:
                return np.array([size[0], size[0], size[1]])
            case kinds.mjGEOM_CAPSULE:
                return np.array([size[0], size[0], size[0] + size[1]])
            case kinds.mjGEOM_SPHERE:
                return np.full(3, size[0])
            case kinds.mjGEOM_MESH:
                return np.asarray(np.abs(self._vertices(geom)).max(0))
        return None

    def _corners(self, geom: int) -> np.ndarray:
        center, axes = self._pose(geom)
        if self._model.geom_type[geom] == self._mujoco.mjtGeom.mjGEOM_MESH:
            return np.asarray(self._vertices(geom) @ axes.T + center)
        half = self._half(geom)
        corners = np.empty((0, 3)) if half is None else _CORNERS * half
        return np.asarray(corners @ axes.T + center)

    def _vertices(self, geom: int) -> np.ndarray:
        mesh = self._model.geom_dataid[geom]
        first = self._model.mesh_vertadr[mesh]
        return np.array(self._model.mesh_vert[first : first + self._model.mesh_vertnum[mesh]])
