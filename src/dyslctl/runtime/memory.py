"""Memory that goes back to the system when weights are given up.

glibc keeps freed blocks below a threshold, which it raises up to 32 MiB, for the next ones of that size. Packing frees
weights block by block and needs others of other sizes: a process would end up holding nearly all weights twice.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_MMAP_THRESHOLD = -3
"""``M_MMAP_THRESHOLD`` of ``malloc.h``."""
_LOADING, _RUNNING = 1 << 20, 32 << 20
"""Bytes. ``_RUNNING`` is the highest that glibc would choose by itself: what an inference frees is used again."""


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Until it is left, blocks of 1 MiB or more are mapped one by one. Without glibc nothing changes."""
    mallopt = _mallopt()
    if mallopt is None:
        yield
        return
    mallopt(_MMAP_THRESHOLD, _LOADING)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, _RUNNING)


def _mallopt() -> Callable[[int, int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        found: Callable[[int, int], int] = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return None
    return found
