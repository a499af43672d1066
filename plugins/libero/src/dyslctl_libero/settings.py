"""What a user may set, by environment variables: worker processes inherit them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from dyslctl.errors import ConfigError

Renderer = Literal["exact", "fast"]
"""``exact`` paints robosuite's own picture, bit for bit. ``fast`` leaves out reflections and multisampling."""

SETUP = "python -m dyslctl_libero setup"
"""The command that installs whatever is missing."""

ASSETS = "DYSLCTL_LIBERO_ASSETS"
CACHE = "DYSLCTL_LIBERO_CACHE"
RENDERER = "DYSLCTL_LIBERO_RENDERER"
IMAGE_SIZE = "DYSLCTL_LIBERO_IMAGE_SIZE"


@dataclass(frozen=True)
class Settings:
    """How the simulator is set up.

    Attributes:
        cache: Folder of the configuration file and of unpacked or downloaded scene files.
        assets: Folder or ``.tar.xz`` of the scene files; ``None`` looks where ``setup`` put them.
        renderer: Which picture is painted.
        image_size: Side of an observed picture, pixels.
    """

    cache: Path
    assets: Path | None = None
    renderer: Renderer = "exact"
    image_size: int = 256

    @classmethod
    def of(cls, variables: Mapping[str, str] = os.environ) -> Settings:
        """The settings in environment variables.

        Raises:
            ConfigError: If a value is not one of those allowed.
        """
        renderer, size = variables.get(RENDERER, "exact"), variables.get(IMAGE_SIZE, "256")
        if renderer not in get_args(Renderer):
            raise ConfigError(f"{RENDERER}: expected exact or fast, found '{renderer}'")
        if not size.isdecimal() or not 32 <= int(size) <= 1024:
            raise ConfigError(f"{IMAGE_SIZE}: expected pixels from 32 to 1024, found '{size}'")
        default = Path(variables.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dyslctl" / "libero"
        return cls(
            cache=Path(variables.get(CACHE) or default).absolute(),
            assets=Path(variables[ASSETS]).absolute() if variables.get(ASSETS) else None,
            renderer=cast(Renderer, renderer),
            image_size=int(size),
        )
