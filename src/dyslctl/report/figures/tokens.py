"""The figure of ``dyslctl analyze tokens`` (SpecPrune-VLA, Figures 2 and 14)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dyslctl.report.plots import BLUE, GREY, ORANGE, VERMILION

Document = Mapping[str, Any]
Frame = Sequence[np.ndarray]
PICTURES = 6
DIMMED = 0.25
"""How much of its brightness a dropped patch keeps."""


def figure(document: Document, frames: Sequence[Frame]) -> Figure:
    """The views of some inferences, dropped patches dimmed; below, recall over time and entropy over depth.

    Args:
        document: Of the study.
        frames: Of each inference, one ``[height, width, 3]`` uint8 a view.
    """
    shown = np.unique(np.linspace(0, len(frames) - 1, PICTURES).round().astype(int))
    views = len(document["tokens_per_view"])
    drawn = Figure(figsize=(8.6, 1.45 * views + 2.4), layout="constrained")
    grid = drawn.add_gridspec(2, 1, height_ratios=(1.45 * views, 2.4))
    above, below = (drawn.add_subfigure(grid[row, 0]) for row in (0, 1))
    pictures = above.subplots(views, len(shown), squeeze=False)
    for column, index in enumerate(shown):
        moment = document["moments"][index]
        for view in range(views):
            axes = pictures[view, column]
            retained = moment["retained"][view]
            axes.imshow(dimmed(frames[index][view], retained, document["tokens_per_view"][view]))
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(f"{len(retained)} of {document['tokens_per_view'][view]}", fontsize=8)
        pictures[0, column].set_title(f"step {moment['step']}", fontsize=8)
    left, right = below.subplots(1, 2, width_ratios=(1.5, 1))
    _recall(left, document)
    _entropy(right, document)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return drawn


def dimmed(image: np.ndarray, retained: Sequence[int], tokens: int) -> np.ndarray:
    """``image`` with the patches that were dropped darker; ``tokens`` lie on it row by row, in a square."""
    side = math.isqrt(tokens)
    height, width = image.shape[:2]
    rows, columns = (np.minimum(np.arange(size) * side // size, side - 1) for size in (height, width))
    stays = np.isin(np.arange(side * side), list(retained)).reshape(side, side)[rows][:, columns]
    shades = np.where(stays[..., None], image, image * DIMMED)
    return shades.round().astype(np.uint8)


def _recall(axes: Axes, document: Document) -> None:
    moments = document["moments"]
    steps = [moment["step"] for moment in moments]
    for key, colour, label in (
        ("recall_first", BLUE, "after the first pruning"),
        ("recall", VERMILION, "at the end"),
        ("carried", ORANGE, "important before, too"),
    ):
        values = [math.nan if moment[key] is None else moment[key] for moment in moments]
        axes.plot(steps, values, color=colour, marker="o", markersize=2.5, linewidth=1.2, label=label)
    axes.set(xlabel="executed actions", ylabel="share of important tokens", ylim=(0, 1.03))
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2)


def _entropy(axes: Axes, document: Document) -> None:
    rows = document["layers"]
    layers = [row["layer"] for row in rows]
    mean, spread = (np.array([row[key] for row in rows]) for key in ("entropy", "entropy_sd"))
    axes.fill_between(layers, mean - spread, mean + spread, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(layers, mean, color=BLUE, marker="o", markersize=2.5, linewidth=1.2)
    axes.axhline(document["uniform_entropy"], color=GREY, linewidth=1, linestyle="--", label="all tokens alike")
    axes.set(xlabel="layer", ylabel="attention entropy, nats", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2)
