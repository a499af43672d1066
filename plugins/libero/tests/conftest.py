"""What the tests share: scene files that are none, a scene without a simulator, and which tests need the real one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dyslctl_libero.assets import FOLDERS
from dyslctl_libero.expert.rotation import about_z
from dyslctl_libero.expert.scene import Box
from dyslctl_libero.settings import IMAGE_SIZE, RENDERER, Settings
from hypothesis import settings as hypothesis_settings

hypothesis_settings.register_profile("any-machine", deadline=None, derandomize="CI" in os.environ)
hypothesis_settings.load_profile("any-machine")

DOWN = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
"""A hand whose fingers point down: its y axis, along which they close, is the world's x axis."""


@pytest.fixture(autouse=True)
def default_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever renderer and size whoever runs the tests has set for themselves."""
    for name in (RENDERER, IMAGE_SIZE):
        monkeypatch.delenv(name, raising=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "libero: runs the real simulator; run with `make test-libero`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The default suite needs no simulator: without ``-m libero`` its tests are left out."""
    if "libero" in str(config.getoption("markexpr")):
        return
    real = [item for item in items if item.get_closest_marker("libero")]
    items[:] = [item for item in items if item not in real]
    config.hook.pytest_deselected(items=real)


@pytest.fixture
def scene_files(tmp_path: Path) -> Path:
    """A folder that looks like LIBERO's scene files."""
    folder = tmp_path / "scene-files"
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
        (folder / name / "thing.xml").write_text(f"<{name}/>")
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache=tmp_path / "cache")


class FlatScene:
    """A scene of boxes: what the expert's planning looks at, with a hand that follows."""

    def __init__(self, objects: dict[str, np.ndarray], obstacles: list[Box]) -> None:
        self.objects, self.boxes = objects, obstacles
        self.hand = np.array([0.0, 0.0, 0.3])
        self.hand_axes = DOWN
        self.closing_axis = np.array([1.0, 0.0, 0.0])
        self.shoulder = np.array([-0.5, 0.0, 0.3])

    def points(self, name: str) -> np.ndarray:
        return self.objects[name]

    def knob(self, name: str) -> np.ndarray:
        """The last of the boxes."""
        return self.objects[name][-8:]

    def obstacles(self, name: str) -> list[Box]:
        return self.boxes

    def execute(self, action: np.ndarray) -> None:
        """A hand that gets half of what it asks for, as the robot does; an action of 1 is 5 cm, or half a radian."""
        self.hand = self.hand + 0.5 * 0.05 * action[:3]
        self.hand_axes = about_z(0.5 * 0.5 * float(action[5])) @ self.hand_axes


@pytest.fixture(scope="session")
def flat_scene() -> Any:
    """The class: ``flat_scene({"name": points}, [Box(...)])``."""
    return FlatScene


def corners(center: tuple[float, float, float], half: tuple[float, float, float]) -> np.ndarray:
    """``[8, 3]`` corners of an upright box."""
    signs = [[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    return np.array(center) + np.array(signs) * np.array(half)


@pytest.fixture(scope="session")
def box_points() -> Any:
    """``box_points(center, half)``: ``[8, 3]`` corners of an upright box."""
    return corners
