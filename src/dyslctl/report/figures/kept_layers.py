"""The figure of ``dyslctl analyze kept-layers`` (Fig. 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dyslctl.report.plots import (
    COLOURS,
    GREY,
    MARKERS,
)

Document = Mapping[str, Any]
Row = Mapping[str, Any]


def figure(document: Document) -> Figure:
    """Left a histogram of the layers that inferences run, right the time that so many take."""
    drawn = Figure(figsize=(9.0, 3.5), layout="constrained")
    left, right = drawn.subplots(1, 2)
    names = list(document["methods"])
    _histogram(left, document, names)
    _times(right, document, names)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = left.get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, fontsize=8)
    return drawn


def _histogram(axes: Axes, document: Document, names: Sequence[str]) -> None:
    width = 0.84 / len(names)
    for index, name in enumerate(names):
        rows = _of(document, name)
        places = np.array([row["layers"] for row in rows]) + width * (index - (len(names) - 1) / 2)
        shares = [100 * row["share"] for row in rows]
        axes.bar(places, shares, width=width, color=COLOURS[index % len(COLOURS)], label=name)
    axes.axvline(document["num_layers"] + 0.5, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xlim(-0.6, max([document["num_layers"], *(row["layers"] for row in document["rows"])]) + 0.9)
    axes.set(xlabel=f"layers run of {document['num_layers']}, re-predictions included", ylabel="share of inferences, %")


def _times(axes: Axes, document: Document, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        rows = [row for row in _of(document, name) if row["llm_ms_p50"] is not None]
        layers = np.array([row["layers"] for row in rows])
        low, middle, high = (np.array([row[f"llm_ms_p{quartile}"] for row in rows]) for quartile in (25, 50, 75))
        axes.errorbar(
            layers, middle, [middle - low, high - middle], color=COLOURS[index % len(COLOURS)], linewidth=1.1,
            marker=MARKERS[index % len(MARKERS)], markersize=4.5, markerfacecolor="none", capsize=2, elinewidth=0.8,
        )  # fmt: skip
    axes.set(xlabel="layers run", ylabel="time of the layers, ms (quartiles)", ylim=(0, None), xlim=(0, None))


def _of(document: Document, name: str) -> list[Row]:
    return [row for row in document["rows"] if row["method"] == name]
