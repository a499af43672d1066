"""Decoding what data sets store: compressed images, and frames of a video."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dyslctl.data.optional import require
from dyslctl.errors import ArtifactError

OPEN_VIDEOS = 8


def decode_image(data: bytes, where: str) -> np.ndarray:
    """A PNG or JPEG as ``[height, width, 3]`` uint8.

    Raises:
        ArtifactError: If it is damaged.
        EnvironmentMismatch: If Pillow is not installed.
    """
    pillow = require("PIL.Image", "decoding the images of a data set")
    try:
        with pillow.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ArtifactError(f"{where}: not an image: {error}") from error


def video_frame(path: Path, seconds: float, tolerance: float, where: str) -> np.ndarray:
    """The frame of ``path`` that is shown at ``seconds``, give or take ``tolerance``: ``[height, width, 3]`` uint8.

    Raises:
        ArtifactError: If the file is damaged or has no such frame.
        EnvironmentMismatch: If PyAV is not installed.
    """
    av = require("av", "reading the videos of a data set")
    try:
        found = _open(path).frame(seconds, tolerance)
    except (av.FFmpegError, OSError) as error:
        raise ArtifactError(f"{where}: cannot read {path}: {error}", hint="download the file again") from error
    if found is None:
        raise ArtifactError(f"{where}: {path} has no frame at {seconds:.3f} s", hint="download the file again")
    return found


class _Video:
    """An open file; looking at a frame costs the decoding from the key frame before it."""

    def __init__(self, path: Path) -> None:
        self._container: Any = require("av", "reading the videos of a data set").open(str(path))
        self._stream = self._container.streams.video[0]

    def frame(self, seconds: float, tolerance: float) -> np.ndarray | None:
        """See :func:`video_frame`; ``None`` if there is no such frame."""
        self._container.seek(int(max(seconds, 0.0) / self._stream.time_base), stream=self._stream)
        for frame in self._container.decode(self._stream):
            if frame.time >= seconds - tolerance:
                return np.asarray(frame.to_ndarray(format="rgb24")) if frame.time <= seconds + tolerance else None
        return None


@lru_cache(maxsize=OPEN_VIDEOS)
def _open(path: Path) -> _Video:
    return _Video(path)
