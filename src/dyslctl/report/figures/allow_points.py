"""The figure of ``dyslctl analyze allow-points`` (Fig. 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dyslctl.report.plots import (
    BLUE,
    COLOURS,
    GREY,
    ORANGE,
    VERMILION,
)

Document = Mapping[str, Any]
Row = Mapping[str, Any]
PICTURES = 7


def figure(document: Document, frames: Sequence[np.ndarray]) -> Figure:
    """Points above, ``delta C`` and the gripper below them, and what the camera saw.

    Args:
        document: Of the study.
        frames: ``[height, width, 3]`` uint8, the scene after each inference's actions.
    """
    drawn = Figure(figsize=(8.6, 5.6), layout="constrained")
    grid = drawn.add_gridspec(2, 1, height_ratios=(2.0, 0.95))
    above, below = (drawn.add_subfigure(grid[row, 0]) for row in (0, 1))
    points, deltas = above.subplots(2, 1, sharex=True, height_ratios=(1.15, 1))
    _points(points, document)
    _deltas(deltas, document)
    for axes in (points, deltas):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, document["steps"])
    shown = np.unique(np.linspace(0, len(frames) - 1, PICTURES).round().astype(int))
    for axes, index in zip(below.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        moment = document["moments"][index]
        axes.imshow(frames[index], interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(f"step {moment['step'] + moment['executed']}", fontsize=8)
    return drawn


def _points(axes: Axes, document: Document) -> None:
    moments = document["moments"]
    borders = [moment["step"] for moment in moments] + [document["steps"]]
    for index, layers in enumerate(document["segments"]):
        axes.stairs(
            [moment["points"][index] for moment in moments], borders, baseline=None, linewidth=1.8,
            color=COLOURS[index % len(COLOURS)], label=f"allow point, layers {layers[0]}–{layers[-1]}",
        )  # fmt: skip
    highest = max(len(layers) for layers in document["segments"])
    middles = np.array([moment["step"] + moment["executed"] / 2 for moment in moments])
    for key, marker, colour, label in (
        ("jumps", "|", GREY, "an inference that skips"),
        ("verified", "v", VERMILION, "predicted again"),
    ):
        chosen = np.array([bool(moment[key]) for moment in moments])
        if chosen.any():
            heights = np.full(chosen.sum(), highest + 0.6)
            axes.scatter(middles[chosen], heights, marker=marker, s=28, color=colour, label=label)
    axes.set(ylabel="forced dynamic layers", ylim=(-0.3, highest + 1.1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2)


def _deltas(axes: Axes, document: Document) -> None:
    moments = [moment for moment in document["moments"] if moment["delta"] is not None]
    places = [moment["step"] + moment["executed"] / 2 for moment in moments]
    axes.plot(places, [moment["delta"] for moment in moments], color=BLUE, marker="o", markersize=3, linewidth=1.2)
    axes.axhline(document["eta_1"], color=VERMILION, linewidth=1, linestyle="--", label="η₁")
    axes.axhline(document["eta_2"], color=ORANGE, linewidth=1, linestyle=":", label="η₂")
    for index, step in enumerate(_switches(document["moments"])):
        axes.axvline(step, color=GREY, linewidth=1, label="gripper switches" if index == 0 else None)
    axes.set(xlabel="executed actions", ylabel="lowest δC\nof the actions")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2)


def _switches(moments: Sequence[Row]) -> list[int]:
    """Steps at which an inference begins whose last action has the gripper elsewhere than that of the one before."""
    return [now["step"] for before, now in pairwise(moments) if now["gripper"] != before["gripper"]]
