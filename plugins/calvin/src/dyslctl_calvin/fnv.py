"""The hash that the official evaluation seeds initial states with: what ``pyhash.fnv1_32`` gives for a string."""

from __future__ import annotations

PRIME = 0x01000193
MASK = 0xFFFFFFFF


def fnv1_32(text: str) -> int:
    """FNV-1 with 32 bits over the UTF-16-LE bytes of ``text``, from 0 and not from the offset basis.

    ``h = (h * PRIME mod 2^32) xor byte`` (Fowler, Noll, Vo). Both peculiarities are those of pyhash 0.9.3, which no
    longer builds on today's Pythons.
    """
    value = 0
    for byte in text.encode("utf-16-le"):
        value = (value * PRIME & MASK) ^ byte
    return value
