"""The figure of ``dyslctl analyze continuity`` (Fig. 6, and whose signal tells best)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dyslctl.report.cells import percent
from dyslctl.report.plots import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
)
from dyslctl.report.studies.continuity import span

Document = Mapping[str, Any]
Row = Mapping[str, Any]

KINDS = {"asked": (GREEN, "the method's own"), "after": (ORANGE, "from the skipped prediction")}
PAST = (BLUE, "from past actions only")


def figure(document: Document) -> Figure:
    """(a) How often each range of ``C`` occurs, and what skipping there costs; (b) the signals."""
    drawn = Figure(figsize=(11.6, 3.9), layout="constrained")
    left, middle, right = drawn.subplots(1, 3, width_ratios=(1.25, 1.15, 0.95))
    _losses(left, document)
    _damages(middle, document)
    _areas(right, document)
    return drawn


def _losses(axes: Axes, document: Document) -> None:
    rows = document["rows"]
    places = np.arange(len(rows))
    axes.bar(
        places, [100 * row["share"] for row in rows], color=GREY, alpha=0.55, width=0.8, label="share of inferences"
    )
    axes.set_xticks(places, [span(row) for row in rows], fontsize=8, rotation=35, ha="right", rotation_mode="anchor")
    axes.set(xlabel="continuity C before the inference", ylabel="share of inferences, %", ylim=(0, 105))
    twin = axes.twinx()
    loss, ends = _loss(rows)
    twin.errorbar(
        places, loss, np.abs(ends - loss), fmt="o", color=VERMILION, markersize=5, capsize=3, linewidth=1.1,
        label="success lost by skipping there",
    )  # fmt: skip
    twin.axhline(0, color=VERMILION, linewidth=0.6)
    bottom, top = min(-2.0, float(ends.min())), max(2.0, float(ends.max()))
    twin.set_ylim(bottom - 0.05 * (top - bottom), top + 0.05 * (top - bottom))
    twin.set_ylabel("success lost, points", color=VERMILION)
    handles = [each for panel in (axes, twin) for each in panel.get_legend_handles_labels()[0]]
    axes.legend(
        handles=handles, frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2
    )
    for panel in (axes, twin):
        panel.spines["top"].set_visible(False)


def _loss(rows: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Percentage points lost, and the ends of its interval ``[2, n]``."""
    ends = [[-100 * row["difference_high"] for row in rows], [-100 * row["difference_low"] for row in rows]]
    return np.array([-100 * row["difference"] for row in rows]), np.array(ends)


def _damages(axes: Axes, document: Document) -> None:
    rows = [row for row in document["rows"] if row["damage"] is not None]
    places = np.arange(len(rows))
    damage, low, high = (100 * np.array([row[key] for row in rows]) for key in ("damage", "damage_low", "damage_high"))
    axes.bar(places, damage, yerr=[damage - low, high - damage], color=BLUE, alpha=0.75, width=0.8, capsize=3)
    axes.set_xticks(places, [span(row) for row in rows], fontsize=8, rotation=35, ha="right", rotation_mode="anchor")
    axes.set(xlabel="continuity C before the inference", ylabel="damage of skipping,\n% of the motion")
    axes.spines[["top", "right"]].set_visible(False)


def _areas(axes: Axes, document: Document) -> None:
    """Signals from the best to the worst, coloured by what they know."""
    rows = sorted(document["signals"], key=lambda row: float(row["auc"]))
    for place, row in enumerate(rows):
        colour, _ = _kind(row["signal"])
        error = [[row["auc"] - row["auc_low"]], [row["auc_high"] - row["auc"]]]
        axes.errorbar(row["auc"], place, xerr=error, fmt="o", color=colour, markersize=5, capsize=3, linewidth=1.2)
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
    least = min([0.4, *(row["auc_low"] - 0.02 for row in rows)])
    axes.set(xlabel=f"AUC, the {percent(document['damaged_share'], 0)} most damaged", xlim=(least, 1.01))
    axes.spines[["top", "right"]].set_visible(False)
    shown = dict.fromkeys(_kind(row["signal"]) for row in reversed(rows))
    handles = [Patch(color=colour, label=label) for colour, label in shown]
    axes.legend(
        handles=handles, frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1.0), borderaxespad=0.2
    )


def _kind(signal: str) -> tuple[str, str]:
    return KINDS["after"] if signal.endswith("after") else KINDS.get(signal, PAST)
