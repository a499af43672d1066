"""What a user may set, by environment variables: worker processes inherit them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from dyslctl.errors import ConfigError

Renderer = Literal["tiny", "egl"]
"""``tiny``: PyBullet's own, on the CPU, the same on every machine. ``egl``: OpenGL, which painted the released data."""

ENV = "DYSLCTL_CALVIN_ENV"
CACHE = "DYSLCTL_CALVIN_CACHE"
RENDERER = "DYSLCTL_CALVIN_RENDERER"
SEQUENCES = "DYSLCTL_CALVIN_SEQUENCES"


@dataclass(frozen=True)
class Settings:
    """How the simulator is set up, and what is evaluated on it.

    Attributes:
        cache: Folder of the official chains, once they are drawn.
        checkout: Folder of the ``calvin_env`` repository; ``None``: the installed one.
        renderer: Who paints.
        sequences: File of the chains to evaluate on; ``None``: the official ones.
    """

    cache: Path
    checkout: Path | None = None
    renderer: Renderer = "tiny"
    sequences: Path | None = None

    @classmethod
    def of(cls, variables: Mapping[str, str] = os.environ) -> Settings:
        """The settings in environment variables.

        Raises:
            ConfigError: If a value is not one of those allowed.
        """
        renderer = variables.get(RENDERER, "tiny")
        if renderer not in get_args(Renderer):
            raise ConfigError(f"{RENDERER}: expected tiny or egl, found '{renderer}'")
        default = Path(variables.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dyslctl" / "calvin"
        return cls(
            cache=Path(variables.get(CACHE) or default).absolute(),
            checkout=_path(variables, ENV),
            renderer=cast(Renderer, renderer),
            sequences=_path(variables, SEQUENCES),
        )


def _path(variables: Mapping[str, str], name: str) -> Path | None:
    return Path(variables[name]).absolute() if variables.get(name) else None
