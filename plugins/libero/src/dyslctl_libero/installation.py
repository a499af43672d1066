"""Is the simulator here? What is missing comes with the command that installs it."""

from __future__ import annotations

import ctypes.util
import os
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch
import yaml

from dyslctl.artifacts.files import atomic_write
from dyslctl.errors import NotInstalled
from dyslctl_libero import assets
from dyslctl_libero.settings import SETUP, Settings

REQUIREMENTS = Path(__file__).with_name("simulator.txt")
LIBRARIES = {"osmesa": ("OSMesa", "libosmesa6"), "egl": ("EGL", "libegl1 libgl1-mesa-dri")}
"""``MUJOCO_GL`` -> the library it opens, and the Debian packages that bring it."""


@dataclass(frozen=True)
class Installation:
    """A simulator that is ready to be imported.

    Attributes:
        root: Folder of LIBERO's task definitions and initial states.
        assets: Folder of the scene files.
        graphics: ``osmesa`` or ``egl``.
        versions: Of the packages that decide over physics and pictures.
    """

    root: Path
    assets: Path
    graphics: str
    versions: dict[str, str]


def prepare(settings: Settings) -> Installation:
    """Check that everything is here, write LIBERO's configuration file, and point this process to it.

    Raises:
        NotInstalled: If something is missing; lists all of it.
        EnvironmentMismatch: If the scene files of the settings are unusable.
    """
    graphics = choose_graphics()
    if missing := [*missing_packages(), *missing_library(graphics)]:
        raise NotInstalled("the LIBERO simulator is not complete:\n  " + "\n  ".join(missing), hint=SETUP)
    folder = assets.locate(settings)
    root = _root()
    os.environ["LIBERO_CONFIG_PATH"] = str(write_config(settings.cache / "config", root, folder))
    os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = graphics
    return Installation(root, folder, graphics, {name: version(name) for name in ("mujoco", "robosuite", "hf-libero")})


def missing_packages() -> list[str]:
    """``package: expected x, found y`` for each that is not installed or of another version than a pin says."""
    problems = []
    for line in REQUIREMENTS.read_text().splitlines():
        match = re.fullmatch(r"([\w-]+)(==|>=)([\w.]+)", line)
        if match is None:
            continue
        name, relation, wanted = match.groups()
        found = _version(name)
        if found is None or (relation == "==" and found != wanted):
            problems.append(f"{name}: expected {relation}{wanted}, found {found or 'none'}")
    return problems


def missing_library(graphics: str) -> list[str]:
    """The system library that pictures need, if it is not here, with the line that installs it."""
    library, packages = LIBRARIES[graphics]
    if ctypes.util.find_library(library):
        return []
    return [f"lib{library} for MUJOCO_GL={graphics}: apt-get install -y {packages}"]


def choose_graphics() -> str:
    """``MUJOCO_GL`` if it names a renderer without a window; else EGL with a GPU and OSMesa without."""
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    if wanted in LIBRARIES:
        return wanted
    return "egl" if torch.cuda.is_available() else "osmesa"


def write_config(folder: Path, root: Path, scene_files: Path) -> Path:
    """LIBERO's ``config.yaml``: without it the first import asks a question on the terminal. Returns ``folder``."""
    paths = {
        "benchmark_root": root,
        "bddl_files": root / "bddl_files",
        "init_states": root / "init_files",
        "datasets": folder / "datasets",
        "assets": scene_files,
    }
    text = yaml.safe_dump({key: str(path) for key, path in paths.items()})
    path = folder / "config.yaml"
    if not path.is_file() or path.read_text() != text:
        atomic_write(path, text)
    return folder


def _root() -> Path:
    spec = find_spec("libero")
    places = [Path(place) / "libero" for place in (spec.submodule_search_locations or ())] if spec else []
    for place in places:
        if (place / "bddl_files").is_dir():
            return place
    raise NotInstalled(f"expected LIBERO's task definitions in {places or 'a package libero'}, found none", hint=SETUP)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
