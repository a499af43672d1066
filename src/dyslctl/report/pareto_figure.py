"""The figure of ``dyslctl analyze pareto``: success against layers, as a paper prints it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from dyslctl.report.plots import COLOURS, GREY, MARKERS

Document = Mapping[str, Any]
Row = Mapping[str, Any]
BASELINE = "full"
X_AXES = {
    "layers_per_inference": "layers executed per inference",
    "layers_per_episode": "layers executed per episode",
}
TICKS = (0, 20, 40, 60, 80, 90, 95, 98, 99, 99.5, 99.8, 100)
"""Percent; those that fit are shown."""


def figure(document: Document) -> Figure:
    """Success against layers, per inference and per episode: one colour a method, the full model as a line.

    The axis is logarithmic in the failures, so that 98 % and 99 % are as far apart as 80 % and 90 %.
    """
    drawn = Figure(figsize=(8.4, 3.7), layout="constrained")
    left, right = drawn.subplots(1, 2, sharey=True)
    names = [name for name in document["methods"] if name != BASELINE]
    for axes, key in ((left, "layers_per_inference"), (right, "layers_per_episode")):
        _failure_axis(axes, document)
        for index, name in enumerate(names):
            _curve(axes, document, name, key, index)
        _full_line(axes, document, key)
        axes.set_xlabel(X_AXES[key])
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel(_success_label(document))
    handles, labels = left.get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, fontsize=8)
    return drawn


def _failure_axis(axes: Axes, document: Document) -> None:
    """Height is -log10(failures), in percent; half an episode keeps a curve without failures on the paper."""
    least = 50 / min(point["episodes"] for point in document["pooled"])

    def forward(success: np.ndarray) -> np.ndarray:
        height: np.ndarray = -np.log10(np.clip(100 - np.asarray(success, float) + least, least / 10, None))
        return height

    def inverse(height: np.ndarray) -> np.ndarray:
        success: np.ndarray = 100 + least - 10 ** -np.asarray(height, float)
        return success

    bottom = 100 * min(point["success_ci95"][0] for point in document["pooled"])
    axes.set_yscale("function", functions=(forward, inverse))
    axes.set_ylim(max(0.0, bottom - 0.15 * (100 - bottom)), 100 + 0.5 * least)
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in TICKS if 100 - tick >= 2 * least or tick == 100]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axes.grid(axis="y", color=GREY, alpha=0.2, linewidth=0.6)


def _curve(axes: Axes, document: Document, name: str, key: str, index: int) -> None:
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    pooled = sorted(_of(document["pooled"], name), key=lambda point: float(point["layers_per_inference"]))
    if not pooled:
        return
    x, y = _column(pooled, key), 100 * _column(pooled, "success_rate")
    yerr = np.abs(100 * np.array([point["success_ci95"] for point in pooled]).T - y)
    xerr = np.abs(np.array([point[f"{key}_ci95"] for point in pooled]).T - x)
    seeds = _of(document["points"], name)
    if len(document["seeds"]) > 1:
        axes.scatter(
            _column(seeds, key), 100 * _column(seeds, "success_rate"), s=9, color=colour, alpha=0.35, linewidths=0
        )
    axes.errorbar(
        x, y, yerr, xerr, label=name, color=colour, marker=marker, markersize=4.5, linewidth=1.3, elinewidth=0.8,
        capsize=2, zorder=3,
    )  # fmt: skip


def _full_line(axes: Axes, document: Document, key: str) -> None:
    """The full model's success and its interval; its layers as a word, since the axis does not stretch that far."""
    for point in _of(document["pooled"], BASELINE):
        low, high = point["success_ci95"]
        axes.axhspan(100 * low, 100 * high, color=GREY, alpha=0.15, linewidth=0)
        axes.axhline(100 * point["success_rate"], color=GREY, linewidth=1.2, linestyle="--", label=BASELINE, zorder=1)
        axes.set_title(f"full model: {point[key]:,.0f} layers →", loc="right", fontsize=8, color="#555555")


def _success_label(document: Document) -> str:
    seeds = len(document["seeds"])
    training = f" x {seeds} seeds" if seeds > 1 else ""
    return f"success, % (log of failures)\n{document['episodes']} episodes{training}"


def _of(points: Sequence[Row], name: str) -> list[Row]:
    return [point for point in points if point["method"] == name]


def _column(points: Sequence[Row], key: str) -> np.ndarray:
    return np.array([point[key] for point in points], float)
