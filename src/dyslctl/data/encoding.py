"""Images as a data set stores them: PNG, which loses nothing, or JPEG, which is a quarter of it or less."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from dyslctl.data.optional import require
from dyslctl.errors import ConfigError

PNG_LEVEL = 1
"""Of compression: level 6 makes a simulator's picture a tenth smaller, in four times the time."""


@dataclass(frozen=True)
class ImageCoding:
    """How images are stored.

    Attributes:
        quality: Of JPEG, 1 to 100; ``None`` is PNG.
    """

    quality: int | None = None

    def __post_init__(self) -> None:
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ConfigError(f"--image-quality: expected 1 to 100, found {self.quality}")

    @property
    def name(self) -> str:
        """``png`` or ``jpeg``."""
        return "png" if self.quality is None else "jpeg"

    def encode(self, image: np.ndarray) -> bytes:
        """``image`` ``[height, width, 3]`` uint8 as the content of a file.

        Raises:
            EnvironmentMismatch: If Pillow is not installed.
        """
        pillow = require("PIL.Image", "encoding the images of a data set")
        stream = io.BytesIO()
        if self.quality is None:
            pillow.fromarray(image).save(stream, "PNG", compress_level=PNG_LEVEL)
        else:
            # Colour at full resolution: a thin red line on grey is what a small picture may hang on.
            pillow.fromarray(image).save(stream, "JPEG", quality=self.quality, subsampling=0)
        return stream.getvalue()


PNG = ImageCoding()
