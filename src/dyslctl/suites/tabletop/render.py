"""Two cameras, painter's algorithm, analytic anti-aliasing.

A pixel's ray meets the plane of a rectangle at ``(X, Y)`` in the rectangle's own frame; with half sides ``h`` and ``k``
pixels a unit its coverage is ``clip((h_x - |X|) k + 1/2, 0, 1) clip((h_y - |Y|) k + 1/2, 0, 1)``. Only windows around
objects (agent view) and scenes in which an object is in view (wrist view) are touched. Canvases are float32 planes
``[B, 3, P]``, ``P`` pixels: long inner loops are what numpy is fast at.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from dyslctl.suites.tabletop import camera
from dyslctl.suites.tabletop.scene import FLOOR, TABLE, Prism, fingers, palm, table_prisms
from dyslctl.suites.tabletop.world import World

IMAGE_SIZE = 56
"""Height and width of what a policy sees, in pixels."""


def render(world: World, size: int = IMAGE_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Agent view and wrist view of every scene, each ``[B, size, size, 3]`` uint8."""
    return render_agent(world, size), render_wrist(world, size)


def render_agent(world: World, size: int = IMAGE_SIZE) -> np.ndarray:
    """The view from in front of the table: ``[B, size, size, 3]`` uint8. Sizes for people are fine too."""
    return _agent_view(size).render(world)


def render_wrist(world: World, size: int = IMAGE_SIZE) -> np.ndarray:
    """The view from the wrist straight down: ``[B, size, size, 3]`` uint8."""
    return _wrist_view(size).render(world)


class _AgentView:
    """Paints windows around projected objects."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pixels_per_unit = size / float(2 * np.linalg.norm(camera.AGENT_EYE) * camera.AGENT.half_width)
        self.rays = camera.agent_rays(size).reshape(-1, 2)
        self.background = self._background()

    def render(self, world: World) -> np.ndarray:
        canvas = np.repeat(self.background[None], len(world), axis=0)
        for prism in (*table_prisms(world), *fingers(world), palm(world)):
            self._paint(canvas, prism)
        return _to_images(canvas.reshape(-1, 3, self.size, self.size))

    def _background(self) -> np.ndarray:
        """``[3, P]``: table, and floor where the rays miss it."""
        at_zero = camera.AGENT_EYE[:2] - self.rays * camera.AGENT_EYE[2]
        cover = _coverage(at_zero[:, 0], at_zero[:, 1], (1.0, 1.0), self.pixels_per_unit)
        return np.asarray(FLOOR[:, None] + cover * (TABLE - FLOOR)[:, None], np.float32)

    def _paint(self, canvas: np.ndarray, prism: Prism) -> None:
        scene = np.flatnonzero(prism.present)
        pixel = self._window(prism, scene)
        where = (scene[:, None, None], np.arange(3)[:, None], pixel[:, None])
        patch, rays = canvas[where], self.rays[pixel]
        eye, base = camera.AGENT_EYE.astype(np.float32), prism.base[scene]
        for part in prism.slices:
            drop = (base[:, 2] + np.float32(part.height) - eye[2])[:, None]
            x = rays[..., 0] * drop + (eye[0] - base[:, 0])[:, None]
            y = rays[..., 1] * drop + (eye[1] - base[:, 1])[:, None]
            x, y = _into_frame(x, y, prism.yaw[scene])
            _blend(patch, _coverage(x, y, part.half, self.pixels_per_unit), _rows(part.rgb, scene))
        canvas[where] = patch

    def _window(self, prism: Prism, scene: np.ndarray) -> np.ndarray:
        """``[K, W*W]`` pixel indices of a square that covers each object, shifted to lie inside the image."""
        middle = prism.base[scene] + np.array([0.0, 0.0, prism.top / 2], np.float32)
        half = self._window_half(prism.reach + prism.top / 2, camera.agent_depth(middle))
        centre = np.floor(camera.project_agent(middle) * self.size).astype(np.int64)
        column, row = np.clip(centre, half, self.size - 1 - half).T
        span = np.arange(-half, half + 1)
        square = (span[:, None] * self.size + span).reshape(-1)
        return np.asarray((row * self.size + column)[:, None] + square)

    def _window_half(self, radius: float, depth: np.ndarray) -> int:
        """Pixels from the middle of an object to its edge, where it is nearest to the camera and so the largest."""
        nearest = depth.min(initial=np.inf) - radius
        pixels = radius * self.size / (2 * camera.AGENT.half_width * nearest)
        return min(int(np.ceil(pixels)) + 1, (self.size - 1) // 2)


class _WristView:
    """Looks straight down: a rectangle of the world is a rectangle of the image. Skips what is out of view."""

    def __init__(self, size: int) -> None:
        self.size = size
        centre = ((np.arange(size) + 0.5) / size * 2 - 1) * camera.WRIST_HALF_WIDTH
        right, up = np.meshgrid(centre, -centre)
        self.right, self.up = right.reshape(-1).astype(np.float32), up.reshape(-1).astype(np.float32)

    def render(self, world: World) -> np.ndarray:
        canvas = np.tile(TABLE[:, None], (len(world), 1, self.size * self.size))
        for prism in (*table_prisms(world), *fingers(world)):
            self._paint(canvas, world, prism)
        return _to_images(canvas.reshape(-1, 3, self.size, self.size))

    def _paint(self, canvas: np.ndarray, world: World, prism: Prism) -> None:
        scene = np.flatnonzero(prism.present & self._in_view(world, prism))
        patch = canvas[scene]
        offset, turn = self._in_camera(world, prism, scene)
        for part in prism.slices:
            distance = (camera.WRIST_HEIGHT - offset[:, 2:] - np.float32(part.height)).astype(np.float32)
            x = self.right * distance - offset[:, :1]
            y = self.up * distance - offset[:, 1:2]
            x, y = _into_frame(x, y, turn)
            sharpness = self.size / (2 * camera.WRIST_HALF_WIDTH * distance)
            _blend(patch, _coverage(x, y, part.half, sharpness), _rows(part.rgb, scene))
        canvas[scene] = patch

    def _in_camera(self, world: World, prism: Prism, scene: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Base ``[K, 3]`` and yaw ``[K]`` of the prism relative to the gripper."""
        offset = prism.base[scene] - world.gripper[scene]
        yaw = world.gripper_yaw[scene]
        x, y = _into_frame(offset[:, :1], offset[:, 1:2], yaw)
        return np.column_stack([x, y, offset[:, 2]]), prism.yaw[scene] - yaw

    def _in_view(self, world: World, prism: Prism) -> np.ndarray:
        """``[B]`` bool: the circle around the object meets the square that the camera sees."""
        everything = np.arange(len(world))
        offset, _ = self._in_camera(world, prism, everything)
        seen = (camera.WRIST_HEIGHT - offset[:, 2]) * camera.WRIST_HALF_WIDTH
        return np.asarray(np.abs(offset[:, :2]).max(-1) < seen + prism.reach)


def _into_frame(x: np.ndarray, y: np.ndarray, yaw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets ``[K, P]`` in a frame that is turned by ``yaw [K]``."""
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    return x * cos + y * sin, y * cos - x * sin


def _coverage(x: np.ndarray, y: np.ndarray, half: tuple[float, float], sharpness: float | np.ndarray) -> np.ndarray:
    """How much of each pixel the rectangle covers, 0 to 1."""
    cover_x = np.clip((half[0] - np.abs(x)) * sharpness + 0.5, 0.0, 1.0)
    cover_y = np.clip((half[1] - np.abs(y)) * sharpness + 0.5, 0.0, 1.0)
    return np.asarray(cover_x * cover_y)


def _blend(patch: np.ndarray, cover: np.ndarray, rgb: np.ndarray) -> None:
    """Paint ``rgb [K or 1, 3]`` over ``patch [K, 3, P]`` in place, where ``cover [K, P]`` says so."""
    change = rgb[:, :, None] - patch
    change *= cover[:, None]
    patch += change


def _rows(rgb: np.ndarray, scene: np.ndarray) -> np.ndarray:
    return rgb[None] if rgb.ndim == 1 else rgb[scene]


def _to_images(planes: np.ndarray) -> np.ndarray:
    """``[B, 3, h, w]`` in 0 to 1 -> ``[B, h, w, 3]`` uint8."""
    return np.ascontiguousarray(np.moveaxis((planes * 255 + 0.5).astype(np.uint8), 1, -1))


@lru_cache(maxsize=4)
def _agent_view(size: int) -> _AgentView:
    return _AgentView(size)


@lru_cache(maxsize=4)
def _wrist_view(size: int) -> _WristView:
    return _WristView(size)
