"""Manifests: what a job works on, kept beside its results, so that resuming cannot mix two different jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dyslctl.errors import ArtifactError


def check_same(then: Mapping[str, Any], now: Mapping[str, Any], what: str, hint: str) -> None:
    """Is ``now`` what ``then`` was?

    Args:
        then: The manifest found, as plain values.
        now: The one of the job that is to go on.
        what: Beginning of the message, e.g. ``"cannot resume eval/x: it evaluates something else"``.
        hint: What to do.

    Raises:
        ArtifactError: If not; names every key that differs, with both values.
    """
    old, new = _flat(then), _flat(now)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if keys:
        listing = "\n".join(f"  {key}: then {old.get(key)!r}, now {new.get(key)!r}" for key in keys)
        raise ArtifactError(f"{what}\n{listing}", hint)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted paths."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, Mapping) else {f"{prefix}{key}": inner}
    return flat
