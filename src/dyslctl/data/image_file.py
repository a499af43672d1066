"""Images that wait in a file until they are looked at: what a training of any size keeps in memory is its labels."""

from __future__ import annotations

import io
import os
import tempfile
import weakref
import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Self

import numpy as np

from dyslctl.artifacts.files import make_folder, reading, writing
from dyslctl.data.rows import LazyImages
from dyslctl.errors import ArtifactError, PluginError
from dyslctl.types import Observation

LEVEL = 1
"""Of compression by zlib: the fastest."""
Place = tuple[int, int]
"""Where an image is in the file, and how many bytes it has there."""


class ImageFile:
    """Grows by one record an image, compressed by itself and without loss; any record is read without the others."""

    def __init__(self, file: IO[bytes], name: Path) -> None:
        """Take over an open file, which is closed with its last image; ``name`` is for error messages."""
        self._file, self._name = file, name
        weakref.finalize(self, file.close)

    @classmethod
    def temporary(cls, folder: Path | None = None) -> Self:
        """An empty one that is gone when nobody refers to its images any more, however the process ends.

        Args:
            folder: On whose file system it lies; ``None``: the system's folder for temporary files.

        Raises:
            EnvironmentMismatch: If it cannot be written.
        """
        place = make_folder(folder or Path(tempfile.gettempdir()))
        with writing(place):
            return cls(tempfile.TemporaryFile(dir=place), place)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The file ``path``, to read.

        Raises:
            ArtifactError: If it is missing.
        """
        with reading(path):
            return cls(path.open("rb"), path)

    def keep(self, observation: Observation) -> Observation:
        """The same observation, its images in this file.

        Raises:
            EnvironmentMismatch: If the disk is full.
        """
        return self.shown(observation, {view: self.write(image) for view, image in observation.images.items()})

    def shown(self, observation: Observation, places: Mapping[str, Place]) -> Observation:
        """``observation`` with the images at ``places``, each read when it is looked at."""
        return replace(
            observation, images=LazyImages({view: partial(self.read, place) for view, place in places.items()})
        )

    def write(self, image: np.ndarray) -> Place:
        """Append ``image`` ``[height, width, 3]`` uint8.

            d[:, 0] = image[:, 0],  d[:, x] = image[:, x] - image[:, x - 1]  modulo 256

        is mostly small numbers, which compress well (PNG's Sub filter).

        Raises:
            EnvironmentMismatch: If the disk is full.
            PluginError: If it is no such image.
        """
        if image.ndim != 3 or image.dtype != np.uint8:
            found = f"{list(image.shape)} {image.dtype}"
            raise PluginError(f"expected an image [height, width, 3] uint8, found {found}")
        stream = io.BytesIO()
        np.save(stream, np.diff(image, axis=1, prepend=np.uint8(0)), allow_pickle=False)
        record = zlib.compress(stream.getbuffer(), LEVEL)
        with writing(self._name):
            begin = self._file.seek(0, os.SEEK_END)
            self._file.write(record)
            self._file.flush()
        return begin, len(record)

    def read(self, place: Place) -> np.ndarray:
        """The image at ``place``.

        Raises:
            ArtifactError: If the file was damaged meanwhile.
        """
        begin, size = place
        with reading(self._name):
            record = os.pread(self._file.fileno(), size, begin)
        try:
            differences = np.load(io.BytesIO(zlib.decompress(record)), allow_pickle=False)
        except zlib.error as error:
            found = f"{self._name}: expected {size} bytes of an image at {begin}, found {len(record)} damaged ones"
            raise ArtifactError(found, hint="--resume collects them again") from error
        image: np.ndarray = np.cumsum(differences, axis=1, dtype=np.uint8)
        return image
