"""All that a picture depends on, as one vector, and the painter that turns it into pictures later."""

from __future__ import annotations

import copy
import weakref
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np

from dyslctl_libero.settings import Renderer

CAMERAS = ("agentview", "robot0_eye_in_hand")
"""The two views of the released evaluation, third person first."""
_DATA = ("geom_xpos", "geom_xmat", "site_xpos", "site_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir")
_MODEL = ("site_rgba",)
"""A stove's glowing burner is a site that becomes opaque."""


def take(model: Any, data: Any) -> np.ndarray:
    """``[D]`` float64: where everything visible is in ``data``, and the colours that change."""
    return np.concatenate([field.ravel() for field in _fields(model, data)])


class Painter:
    """Paints snapshots of one scene.

    MuJoCo's own renderer on a copy of the scene; ``exact`` equals robosuite's camera observations bit for bit. The
    graphics context is made with the first picture: who wants none, needs no graphics library.
    """

    def __init__(self, model: Any, renderer: Renderer, size: int) -> None:
        self._scene_model, self._kind, self._size = model, renderer, size

    def paint(self, snapshot: np.ndarray) -> tuple[np.ndarray, ...]:
        """One upright picture a camera, ``[size, size, 3]`` uint8."""
        context = self._context
        fields = _fields(context.model, context.data)
        ends = np.cumsum([field.size for field in fields])
        for field, values in zip(fields, np.split(snapshot, ends[:-1]), strict=True):
            field[:] = values.reshape(field.shape)
        return tuple(context.view(camera) for camera in CAMERAS)

    def close(self) -> None:
        """Free the graphics context."""
        self._context.close()

    @cached_property
    def _context(self) -> _Context:
        return _Context(self._scene_model, self._kind, self._size)


class _Context:
    """MuJoCo's renderer and the copy of the scene that it shows."""

    def __init__(self, model: Any, kind: Renderer, size: int) -> None:
        mujoco = import_module("mujoco")
        self.model = copy.copy(model)
        self.data = mujoco.MjData(self.model)
        self.model.vis.global_.offwidth = self.model.vis.global_.offheight = size
        if kind == "fast":
            self.model.vis.quality.offsamples = 0
        self._renderer = mujoco.Renderer(self.model, size, size)
        # Also when nobody closes it: as late as the interpreter's own end, the graphics library is gone already.
        self._free = weakref.finalize(self, self._renderer.close)
        if kind == "fast":
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._options = mujoco.MjvOption()
        self._options.geomgroup[0] = 0  # collision shapes

    def view(self, camera: str) -> np.ndarray:
        """The scene as ``camera`` sees it, ``[size, size, 3]`` uint8."""
        self._renderer.update_scene(self.data, camera=camera, scene_option=self._options)
        # robosuite's picture is this one upside down; the released evaluation turns that by 180 degrees.
        return np.ascontiguousarray(self._renderer.render()[:, ::-1])

    def close(self) -> None:
        """Free the graphics context."""
        self._free()


def _fields(model: Any, data: Any) -> list[np.ndarray]:
    return [*(getattr(data, name) for name in _DATA), *(getattr(model, name) for name in _MODEL)]
