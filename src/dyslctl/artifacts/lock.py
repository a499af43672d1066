"""One writer at a time: a lock file that says who holds it.

The kernel's lock on the file (``flock``) decides; its text, process and host, is for people. So a lock is never stale:
the kernel frees what a dead process held, whatever killed it, and the file it left behind is simply taken over.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dyslctl.artifacts.files import make_folder, writing
from dyslctl.errors import EnvironmentMismatch

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system says that knows no locks: there nothing is checked."""


@contextmanager
def locked(path: Path, what: str, otherwise: str) -> Iterator[None]:
    """Hold the lock file ``path`` while the body runs; it is gone afterwards.

    Args:
        path: The file. Processes on other hosts are kept out as far as the file system they share carries locks.
        what: Is being done, for those who come too late: ``"runs/a is being trained"``.
        otherwise: What they can do but wait.

    Raises:
        EnvironmentMismatch: If another process holds it, naming process, host and command; or it cannot be written.
    """
    make_folder(path.parent)
    with writing(path):
        descriptor = _take(path)
    if descriptor is None:
        raise EnvironmentMismatch(f"{what} by {_holder(path)}", hint=f"wait until it is done, or {otherwise}")
    try:
        with writing(path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(_self()).encode() + b"\n")
        yield
    finally:
        # Removed while it is held: whoever has opened it meanwhile finds that out and begins anew.
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _take(path: Path) -> int | None:
    """A descriptor of ``path`` that holds its lock; ``None`` if another process does."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return descriptor
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return None
            raise
        if _is_still(descriptor, path):
            return descriptor
        os.close(descriptor)


def _is_still(descriptor: int, path: Path) -> bool:
    """Is ``descriptor`` the file that ``path`` names now? The one who held it may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _self() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _holder(path: Path) -> str:
    """In words; it may not have written who it is yet."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return "process {pid} on {host} since {since}: {command}".format(**found)
    return f"another process, which holds {path}"
