"""Which frames of a CALVIN data set show which instruction: ``lang_annotations/auto_lang_ann.npy``.

    {"language": {"ann": [words, ...], "task": [id, ...], ...}, "info": {"indx": [(first, end), ...], ...}}

A pickled dictionary, which ``torch.load(weights_only=True)`` cannot read. A pickle may call whatever it names, so only
arrays, their types and plain containers can be named here; nothing else is even imported.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dyslctl.artifacts.files import atomic_path, reading
from dyslctl.errors import ArtifactError

ANNOTATIONS = "auto_lang_ann.npy"
HINT = "copy lang_annotations/ of the data set again"


def _dtype(name: str, align: int = False, copy: int = True) -> np.dtype[Any]:
    """A type as old versions pickled it: with numbers for truth values, of which numpy 2.4 warns."""
    return np.dtype(name, align=bool(align), copy=bool(copy))


_ARRAY, _SCALAR = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _ARRAY for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _SCALAR for core in ("core", "_core")},
}
"""Module and name, as any version of numpy writes them -> what is meant."""


@dataclass(frozen=True)
class Annotation:
    """A window of a recording that shows one instruction.

    The released loaders take windows from ``range(first, end + 1 - length)``, so ``end`` itself is never seen.

    Attributes:
        first: Number of its first frame.
        end: One past its last frame.
        words: The instruction.
        task: The id of what it asks for.
    """

    first: int
    end: int
    words: str
    task: str


def read_annotations(path: Path) -> list[Annotation]:
    """The windows, in the file's order.

    Raises:
        ArtifactError: If it is missing, damaged, of another content, or names anything but arrays and containers.
    """
    with reading(path, HINT), path.open("rb") as file:
        content = _unpickled(file, path)
    try:
        words, tasks = content["language"]["ann"], content["language"]["task"]
        rows = list(zip(content["info"]["indx"], words, tasks, strict=True))
        found = [_annotation(*row) for row in rows]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ArtifactError(
            f"{path}: expected as many windows info.indx as instructions language.ann and language.task: "
            f"{type(error).__name__}: {error}",
            HINT,
        ) from error
    if not found:
        raise ArtifactError(f"{path}: expected annotated windows, found none", HINT)
    return found


def write_annotations(path: Path, annotations: Sequence[Annotation]) -> None:
    """What :func:`read_annotations` reads, and the released loaders do, whichever numpy they have.

    Raises:
        EnvironmentMismatch: If it cannot be written.
    """
    content = {
        "language": {"ann": [each.words for each in annotations], "task": [each.task for each in annotations]},
        "info": {"episodes": [], "indx": [(each.first, each.end) for each in annotations]},
    }
    held = np.empty((), object)
    held[()] = content
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(held))
        _Portable(file, protocol=4).dump(held)


def _annotation(window: Any, words: Any, task: Any) -> Annotation:
    first, end = window
    if not isinstance(words, str) or not isinstance(task, str):
        raise TypeError(f"an instruction and a task are text, found {words!r} and {task!r}")
    if not 0 <= int(first) < int(end):
        raise ValueError(f"a window has a first frame and a later end, found {first} and {end}")
    return Annotation(int(first), int(end), words, task)


def _unpickled(file: BinaryIO, path: Path) -> Any:
    """The object that ``numpy.save`` wrote."""
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if (shape, dtype) != ((), np.dtype(object)):
            raise ValueError(f"an array {list(shape)} of {dtype}, not one object")
        return _Restricted(file, path).load().item()
    except ArtifactError:
        raise
    except Exception as error:  # damaged pickles raise anything
        raise ArtifactError(f"cannot read {path}: {type(error).__name__}: {error}", HINT) from error


class _Restricted(pickle.Unpickler):
    """Knows arrays, their types, and what needs no name: numbers, text and containers."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """What ``module.name`` means.

        Raises:
            ArtifactError: If it is not on the list. It is not imported.
        """
        if (module, name) not in _ALLOWED:
            raise ArtifactError(
                f"{self._path}: expected arrays, text and containers, found '{module}.{name}', which it wants called",
                hint="this is no file of CALVIN's: do not open it with other tools, and ask where it comes from",
            )
        return _ALLOWED[module, name]


class _Portable(pickle.Pickler):
    """Writes arrays by the names that every numpy knows; numpy 2's own are unknown before 1.26."""

    def reducer_override(self, obj: Any) -> Any:
        """How ``obj`` is made again."""
        if isinstance(obj, np.ndarray):
            return np.ndarray, (obj.shape, obj.dtype), obj.__reduce__()[2]
        return NotImplemented
