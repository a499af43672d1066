"""A tiny RoboFlamingo with random weights, on disk and loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dyslctl_roboflamingo import RoboFlamingo
from dyslctl_roboflamingo.config import Files, Settings, settings_of
from dyslctl_roboflamingo.random_checkpoint import write_random_checkpoint
from hypothesis import settings as hypothesis_settings

from dyslctl.types import Observation

hypothesis_settings.register_profile("any-machine", deadline=None, derandomize="CI" in os.environ)
hypothesis_settings.load_profile("any-machine")

INSTRUCTIONS = ("take the red block and rotate it to the right", "pull the handle to open the drawer", "open it")


@pytest.fixture(scope="session")
def settings() -> Settings:
    return settings_of("tiny", Files(policy="checkpoint.pth", vision="clip.pth"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Path:
    """Shared by the tests that only read it."""
    path = tmp_path_factory.mktemp("roboflamingo") / "checkpoint"
    write_random_checkpoint(path, settings)
    return path


@pytest.fixture
def write(tmp_path: Path, settings: Settings) -> Callable[[], Path]:
    """Writes the same checkpoint, for a test to damage; returns the folder."""

    def write() -> Path:
        write_random_checkpoint(tmp_path / "checkpoint", settings)
        return tmp_path / "checkpoint"

    return write


@pytest.fixture
def backbone(folder: Path) -> RoboFlamingo:
    return RoboFlamingo.load(folder)


@pytest.fixture(scope="session")
def observe() -> Callable[..., Observation]:
    """``observe(instruction, seed=0)``: random images of CALVIN's sizes."""

    def observe(instruction: str = INSTRUCTIONS[0], seed: int = 0) -> Observation:
        rng = np.random.default_rng(seed)
        sizes = {"static": 200, "gripper": 84}
        images = {view: rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for view, side in sizes.items()}
        return Observation(images, instruction)

    return observe
