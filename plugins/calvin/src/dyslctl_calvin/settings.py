"""What a user may set, by environment variables: worker processes inherit them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from dyslctl.errors import ConfigError

Renderer = Literal["tiny", "fast", "egl"]
"""``tiny``: PyBullet's own, on the CPU, the same on every machine. ``fast``: the same, but the arm has the shapes that
collisions are found with. ``egl``: OpenGL, which painted the released data."""
SIDES = range(32, 1025)
"""Pixels that the picture from across the table may have a side."""

ENV = "DYSLCTL_CALVIN_ENV"
CACHE = "DYSLCTL_CALVIN_CACHE"
RENDERER = "DYSLCTL_CALVIN_RENDERER"
IMAGE_SIZE = "DYSLCTL_CALVIN_IMAGE_SIZE"
SEQUENCES = "DYSLCTL_CALVIN_SEQUENCES"


@dataclass(frozen=True)
class Look:
    """How the world is painted.

    Attributes:
        renderer: Who paints.
        image_size: Side of the picture from across the table, pixels; the hand's camera has 84.
    """

    renderer: Renderer = "tiny"
    image_size: int = 200


@dataclass(frozen=True)
class Settings:
    """How the simulator is set up, and what is evaluated on it.

    Attributes:
        cache: Folder of the official chains, once they are drawn.
        checkout: Folder of the ``calvin_env`` repository; ``None``: the installed one.
        look: How the world is painted.
        sequences: File of the chains to evaluate on; ``None``: the official ones.
    """

    cache: Path
    checkout: Path | None = None
    look: Look = Look()
    sequences: Path | None = None

    @classmethod
    def of(cls, variables: Mapping[str, str] = os.environ) -> Settings:
        """The settings in environment variables.

        Raises:
            ConfigError: If a value is not one of those allowed.
        """
        renderer, side = variables.get(RENDERER, "tiny"), variables.get(IMAGE_SIZE, "200")
        if renderer not in get_args(Renderer):
            raise ConfigError(f"{RENDERER}: expected tiny, fast or egl, found '{renderer}'")
        if not side.isdecimal() or int(side) not in SIDES:
            raise ConfigError(f"{IMAGE_SIZE}: expected pixels from {SIDES[0]} to {SIDES[-1]}, found '{side}'")
        default = Path(variables.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dyslctl" / "calvin"
        return cls(
            cache=Path(variables.get(CACHE) or default).absolute(),
            checkout=_path(variables, ENV),
            look=Look(cast(Renderer, renderer), int(side)),
            sequences=_path(variables, SEQUENCES),
        )


def _path(variables: Mapping[str, str], name: str) -> Path | None:
    return Path(variables[name]).absolute() if variables.get(name) else None
