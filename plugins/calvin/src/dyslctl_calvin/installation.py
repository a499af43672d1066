"""Is the simulator here? What is missing comes with the commands that install it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from dyslctl.errors import EnvironmentMismatch, NotInstalled
from dyslctl_calvin.settings import ENV, Settings

REQUIREMENTS = Path(__file__).with_name("simulator.txt")
REPOSITORY = "https://github.com/mees/calvin_env"
COMMIT = "797142c588c21e76717268b7b430958dbd13bf48"
"""The one that was tried; upstream's last."""
STANDS_FOR = {"opencv-python-headless": ("opencv-python", "opencv-contrib-python")}
"""Distributions that bring the same module."""
FILES = (
    "conf/config_data_collection.yaml",
    "conf/tasks/new_playtable_tasks.yaml",
    "data/calvin_table_D/urdf/calvin_table_D.urdf",
    "data/franka_panda/panda_longer_finger.urdf",
)
"""Beside the package: a checkout has them, an installation that is not editable has not."""


@dataclass(frozen=True)
class Installation:
    """A simulator that is ready to be imported.

    Attributes:
        root: The repository's folder.
        pybullet: Its version, which decides over physics and pictures.
    """

    root: Path
    pybullet: str

    @property
    def fingerprint(self) -> str:
        """12 hex digits over the simulator's code, configuration and scene files."""
        return _fingerprint(self.root)


def prepare(settings: Settings) -> Installation:
    """Check that everything is here, and let this process import it.

    Raises:
        NotInstalled: If something is missing; lists all of it.
        EnvironmentMismatch: If the checkout of the settings is none.
    """
    root = locate(settings)
    missing = missing_packages()
    if root is None:
        missing.append(f"calvin_env: expected a checkout of {REPOSITORY}, found none")
    if root is None or missing:
        raise NotInstalled("the CALVIN simulator is not complete:\n  " + "\n  ".join(missing), hint=commands(root))
    if settings.checkout is not None and str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return Installation(root, version("pybullet"))


def commands(root: Path | None) -> str:
    """The line that installs what is missing; ``root`` is the checkout, if there is one."""
    packages = f"pip install -r {REQUIREMENTS}"
    clone = f"git clone {REPOSITORY} && git -C calvin_env checkout -q {COMMIT[:7]}"
    return packages if root is not None else f"{packages} && {clone} && pip install --no-deps -e ./calvin_env"


def locate(settings: Settings) -> Path | None:
    """The repository's folder: the one in the settings, or that of the installed package; ``None`` without either.

    Raises:
        EnvironmentMismatch: If the one in the settings, or the installed one, lacks configuration or scene files, or a
            folder of that name hides the installed one.
    """
    root = settings.checkout or _installed()
    if root is None:
        return None
    if lacking := [name for name in ("calvin_env/__init__.py", *FILES) if not (root / name).is_file()]:
        where = f"{ENV}={root}" if settings.checkout else f"the installed package in {root}"
        raise EnvironmentMismatch(
            f"{where} lacks {', '.join(lacking)}", hint=f"it needs a whole checkout: {commands(None)}"
        )
    return root


def missing_packages() -> list[str]:
    """``package: expected x, found y`` for each that is not installed or of another version than a pin says."""
    problems = []
    for line in REQUIREMENTS.read_text().splitlines():
        match = re.fullmatch(r"([\w-]+)(==|>=)([\w.]+)", line)
        if match is None:
            continue
        name, relation, wanted = match.groups()
        found = next(filter(None, map(_version, (name, *STANDS_FOR.get(name, ())))), None)
        if found is None or (relation == "==" and found != wanted):
            problems.append(f"{name}: expected {relation}{wanted}, found {found or 'none'}")
    return problems


def _installed() -> Path | None:
    spec = find_spec("calvin_env")
    places = list(spec.submodule_search_locations or ()) if spec else []
    if spec is not None and spec.origin is None:
        raise EnvironmentMismatch(
            f"expected the package calvin_env, found the folder {places[0]}, which hides it from Python",
            hint=f"run the command in another folder, or: export {ENV}=CHECKOUT",
        )
    return Path(places[0]).parent if places else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _fingerprint(root: Path) -> str:
    """Over the files that decide what happens and what is seen, whatever else lies in the checkout."""
    kept = (*root.glob("calvin_env/**/*.py"), *root.glob("conf/**/*.yaml"), *root.glob("data/**/*"))
    total = sha256()
    for path in sorted(path for path in kept if path.is_file()):
        total.update(f"{path.relative_to(root).as_posix()}\0".encode())
        total.update(sha256(path.read_bytes()).digest())
    return total.hexdigest()[:12]
