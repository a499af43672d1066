"""Numbers as the text of table cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MISSING = "–"


def number(value: float | None, digits: int = 1) -> str:
    """``value`` with ``digits`` decimals, or a dash for "not measured"."""
    return MISSING if value is None else f"{value:,.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share of one as a percentage."""
    return MISSING if value is None else f"{100 * value:.{digits}f} %"


def interval(low_high: tuple[float, float] | list[float] | None) -> str:
    """``[low, high]`` in percent."""
    return MISSING if low_high is None else f"{100 * low_high[0]:.1f}–{100 * low_high[1]:.1f}"


def points(difference: float) -> str:
    """A difference of shares in percentage points."""
    return f"{100 * difference:+.2f}"


def points_interval(low_high: tuple[float, float] | list[float]) -> str:
    """``[low, high]`` of such a difference."""
    return f"{points(low_high[0])} to {points(low_high[1])}"


def crashes(methods: Mapping[str, Mapping[str, Any]], where: str = "") -> list[str]:
    """Of the summaries of an evaluation, a line for each method of which episodes crashed."""
    return [
        f"{name}{where}: {found['errors']} crashed, the first with: {found.get('first_error') or 'unknown'}; "
        "--resume plays them again"
        for name, found in methods.items()
        if found["errors"]
    ]


def lost(row: Mapping[str, Any]) -> tuple[str, str]:
    """Percentage points that the ``difference`` of two success rates is below zero, and its interval."""
    middle, low, high = (0.0 - 100 * row[key] for key in ("difference", "difference_high", "difference_low"))
    return f"{middle:+.1f}", f"{low:+.1f} to {high:+.1f}"
