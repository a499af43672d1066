"""Files, written atomically and read strictly.

A reader finds the old content or the new one, never a part: everything goes to a temporary neighbour that is synced
and then renamed. (To replace a folder takes two renames: in the instant between them there is none.) Only
:func:`append_jsonl` writes in place; its reader expects a torn last line.

What cannot be written is the machine's fault (:class:`EnvironmentMismatch`, exit code 3); what cannot be read or
parsed is a bad artifact (:class:`ArtifactError`, exit code 4).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from dyslctl.errors import ArtifactError, EnvironmentMismatch

WRITE_HINTS = {
    errno.ENOSPC: "free some disk space, then repeat the command with --resume",
    errno.EDQUOT: "your disk quota is used up: free some space, then repeat the command with --resume",
    errno.EFBIG: "the file-size limit is reached: raise it (ulimit -f), then repeat the command with --resume",
    errno.EACCES: "choose a folder you may write to (--run or --out)",
    errno.EPERM: "choose a folder you may write to (--run or --out)",
    errno.EROFS: "the file system is read-only: choose another folder (--run or --out)",
    errno.ENOTDIR: "a file stands where a folder is needed: move it away or choose another folder (--run or --out)",
    errno.EEXIST: "a file stands where a folder is needed: move it away or choose another folder (--run or --out)",
}

_HASHED_WHOLE = 64 * 2**20
_SAMPLES, _SAMPLE_SIZE = 64, 64 * 2**10


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the body into an :class:`EnvironmentMismatch` that names ``path``."""
    try:
        yield
    except OSError as error:
        hint = WRITE_HINTS.get(error.errno or 0)
        raise EnvironmentMismatch(f"cannot write {path}: {error.strerror or error}", hint) from error


@contextmanager
def reading(path: Path, hint: str | None = None) -> Iterator[None]:
    """Turn an ``OSError`` of the body into an :class:`ArtifactError` that names ``path``."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactError(f"no such file: {path}", hint) from error
    except IsADirectoryError as error:
        raise ArtifactError(f"expected a file, found a folder: {path}", hint) from error
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}", hint) from error


def make_folder(path: Path) -> Path:
    """Create ``path`` and its parents; fine if it exists.

    Raises:
        EnvironmentMismatch: If it cannot be created.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path for libraries that write files themselves; becomes ``path`` when the body succeeds.

    Raises:
        EnvironmentMismatch: If it cannot be written; ``path`` is then as it was before.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write ``content`` (text as UTF-8) to ``path``, whole or not at all.

    Raises:
        EnvironmentMismatch: If it cannot be written; ``path`` is then as it was before.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill; becomes ``path`` (replacing an older one) when the body succeeds.

    Raises:
        EnvironmentMismatch: If it cannot be written; ``path`` is then as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    make_folder(temporary)
    try:
        with writing(path):
            yield temporary
            for file in temporary.rglob("*"):
                _sync(file)
            replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Put the folder ``new`` in the place of ``path``, on the same file system.

    Raises:
        OSError: If that fails; ``path`` is then as it was before.
    """
    # A folder cannot be renamed onto a filled one, so the old one steps aside first.
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: Path, hint: str | None = None) -> str:
    """The UTF-8 text of ``path``.

    Raises:
        ArtifactError: If it is missing, a folder, unreadable or not UTF-8.
    """
    try:
        with reading(path, hint):
            return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} is not UTF-8 text: {error}", hint) from error


def sha256(path: Path) -> str:
    """Hex digest of a file's content.

    Raises:
        ArtifactError: If it cannot be read.
    """
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 over name, size and content of the files ``names`` of ``folder``, whatever their order: a fingerprint.

    Of a file beyond 64 MiB, 64 evenly spaced blocks of 64 KiB stand for the content, the first (a safetensors
    header) and the last among them: enough to tell checkpoints apart, quick for 15 GB.

    Raises:
        ArtifactError: If one cannot be read.
    """
    digest = hashlib.sha256()
    for name in sorted(names):
        path = folder / name
        with reading(path), path.open("rb") as file:
            size = path.stat().st_size
            digest.update(f"{name}\0{size}\0".encode())
            _hash_content(digest, file, size)
    return digest.hexdigest()


def _hash_content(digest: hashlib._Hash, file: BinaryIO, size: int) -> None:
    if size <= _HASHED_WHOLE:
        digest.update(file.read())
        return
    for sample in range(_SAMPLES):
        file.seek(sample * (size - _SAMPLE_SIZE) // (_SAMPLES - 1))
        digest.update(file.read(_SAMPLE_SIZE))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically.

    Raises:
        EnvironmentMismatch: If it cannot be written.
        ValueError: If it holds a NaN or an infinity, which JSON does not know.
    """
    atomic_write(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, hint: str | None = None) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        ArtifactError: If it cannot be read, is not JSON, or is not an object.
    """
    try:
        value = json.loads(read_text(path, hint))
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path} is not valid JSON: {error}", hint) from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: expected a JSON object, found {type(value).__name__}", hint)
    return value


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Append ``row`` as one line and sync it: once this returns, the row survives a kill or a power cut.

    Raises:
        EnvironmentMismatch: If it cannot be written; a torn line is cut off again where the disk allows it.
        ValueError: If ``row`` holds a NaN or an infinity.
    """
    line = (json.dumps(row, allow_nan=False, separators=(",", ":")) + "\n").encode()
    make_folder(path.parent)
    with writing(path), path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            _write_all(file.fileno(), line)
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), end)
            raise


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of ``path``, oldest first; none if it does not exist. A torn last line is dropped.

    Raises:
        ArtifactError: If it cannot be read or any other line is damaged.
    """
    return [_row(line, number, path) for number, line in enumerate(_whole_lines(path), start=1)]


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write all ``rows`` at once, atomically.

    Raises:
        EnvironmentMismatch: If it cannot be written.
    """
    atomic_write(path, "".join(json.dumps(row, allow_nan=False, separators=(",", ":")) + "\n" for row in rows))


def _whole_lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    with reading(path):
        lines = path.read_bytes().splitlines(keepends=True)
    return lines if not lines or lines[-1].endswith(b"\n") or _is_row(lines[-1]) else lines[:-1]


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _row(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ArtifactError(
            f"{path}, line {number} is damaged: {error}",
            hint="remove that line and repeat the command with --resume: its episode runs again",
        ) from error
    if not isinstance(row, dict):
        raise ArtifactError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
    return row
