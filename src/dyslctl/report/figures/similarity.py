"""The figure of ``dyslctl analyze similarity`` (Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dyslctl.report.plots import (
    BLUE,
    GREY,
    VERMILION,
    draw_heat_map,
)

Document = Mapping[str, Any]


def figure(document: Document) -> Figure:
    """Left the similarity of every two layers' outputs, right that of each layer's input and output with success."""
    drawn = Figure(figsize=(9.6, 3.7), layout="constrained")
    left, right = drawn.subplots(1, 2, width_ratios=(1, 1.45))
    draw_heat_map(drawn, left, document["heat_map"], [row["layer"] for row in document["rows"] if row["static"]])
    _similarities(right, document)
    twin = right.twinx()
    _successes(twin, document)
    handles = [each for axes in (right, twin) for each in axes.get_legend_handles_labels()[0]]
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0.2}
    right.legend(handles=handles, frameon=False, fontsize=8, ncols=2, **place)
    for axes in (right, twin):
        axes.spines["top"].set_visible(False)
    return drawn


def _similarities(axes: Axes, document: Document) -> None:
    for static, colour, label in ((False, GREY, "similarity, dynamic"), (True, BLUE, "similarity, static")):
        rows = [row for row in document["rows"] if row["static"] == static]
        places, heights = [row["layer"] for row in rows], [row["similarity"] for row in rows]
        axes.bar(places, heights, color=colour, alpha=0.55, width=0.8, label=label)
    axes.set(xlabel="layer", ylabel="cosine of input and output", ylim=(0, 1.05))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=5))


def _successes(axes: Axes, document: Document) -> None:
    rows, full = document["rows"], 100 * document["full"]["success_rate"]
    rates, lows, highs = (100 * np.array([row[f"success_{key}"] for row in rows]) for key in ("rate", "low", "high"))
    axes.errorbar(
        [row["layer"] for row in rows], rates, [rates - lows, highs - rates], fmt="o", color=VERMILION, markersize=4.5,
        capsize=2.5, linewidth=1.0, label="success without the layer",
    )  # fmt: skip
    axes.axhline(full, color=VERMILION, linewidth=1, linestyle="--", label="success, all layers")
    axes.set(ylim=(0, 105))
    axes.set_ylabel(f"success, % of {document['episodes']} episodes", color=VERMILION)
