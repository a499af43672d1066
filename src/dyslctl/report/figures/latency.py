"""The figure of ``dyslctl analyze latency`` (Fig. 10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from dyslctl.report.plots import (
    latency_breakdown,
)

Document = Mapping[str, Any]


def figure(document: Document) -> Figure:
    """Stacked parts, with the interval of the whole."""
    rows = document["breakdowns"]
    return latency_breakdown(
        {row["method"]: row["parts_ms"] for row in rows}, {row["method"]: row["total_ms_ci95"] for row in rows}
    )
