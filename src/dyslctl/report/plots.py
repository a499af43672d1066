"""The figures. Each function takes plain numbers and returns a matplotlib figure; nothing here computes a result.

Drawn with matplotlib's object interface (no pyplot): no global state, no window, any thread.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dyslctl.artifacts.files import atomic_write

BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442",
)  # fmt: skip
"""The Okabe-Ito palette: told apart with every common colour blindness."""

GREY = "#8C8C8C"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
PARTS = {
    "encode": SKY, "layers": BLUE, "controllers": ORANGE, "adapters": GREEN, "reprediction": VERMILION, "head": PURPLE,
    "guidance": YELLOW, "tokens": GREY,
}  # fmt: skip
"""Parts of one inference, in the order they are stacked (Fig. 10), each always in the same colour."""


@dataclass(frozen=True)
class Point:
    """A method in the plane of success against executed layers.

    Attributes:
        success: Share of solved episodes, 0 to 1.
        interval: Its 95 % interval, low and high.
        layers: Mean decoder layers executed an inference.
    """

    name: str
    success: float
    interval: Sequence[float]
    layers: float


def heat_map(similarity: Sequence[Sequence[float]], static_layers: Collection[int]) -> Figure:
    """Fig. 3 (a): mean cosine similarity between the outputs of every two layers, ``[L, L]``."""
    figure, axes = _figure(4.6, 3.9)
    draw_heat_map(figure, axes, similarity, static_layers)
    return figure


def draw_heat_map(
    figure: Figure, axes: Axes, similarity: Sequence[Sequence[float]], static_layers: Collection[int]
) -> None:
    """:func:`heat_map` in a panel of a figure."""
    values = np.asarray(similarity)
    image = axes.imshow(values, cmap="cividis", origin="lower", vmin=min(0.0, float(values.min())), vmax=1.0)
    figure.colorbar(image, ax=axes, label="cosine similarity of outputs", fraction=0.046, pad=0.04)
    axes.set(xlabel="layer (* static)", ylabel="layer")
    _label_layers(axes, len(values), static_layers)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def layer_bars(similarity: Sequence[float], static_layers: Collection[int]) -> Figure:
    """Fig. 3 (c): how alike input and output of each layer are; the static layers are the least alike."""
    figure, axes = _figure(6.0, 3.0)
    for static, colour, label in ((False, GREY, "dynamic"), (True, BLUE, "static (always runs)")):
        layers = [layer for layer in range(len(similarity)) if (layer in static_layers) == static]
        axes.bar(layers, [similarity[layer] for layer in layers], color=colour, width=0.8, label=label)
    axes.set_ylim(0.0, 1.0)
    axes.set(xlabel="layer", ylabel="cosine similarity\nof input and output")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_above(axes, columns=2)
    return figure


def training_curve(curve: Sequence[Mapping[str, float]], quantities: Mapping[str, str]) -> Figure:
    """One panel for each quantity over the training steps; the bold line is its running mean over a tenth of them.

    Args:
        curve: One mapping a logged step, with ``step`` and the quantities.
        quantities: Key -> axis label with its unit.
    """
    shown = {key: label for key, label in quantities.items() if any(key in row for row in curve)}
    figure = Figure(figsize=(3.2 * len(shown), 2.6), layout="constrained")
    for axes, (key, label) in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown.items(), strict=True):
        rows = [row for row in curve if key in row]
        steps, values = [row["step"] for row in rows], np.array([row[key] for row in rows])
        axes.plot(steps, values, color=BLUE, linewidth=0.6, alpha=0.35)
        axes.plot(steps, _running_mean(values), color=BLUE, linewidth=1.6)
        axes.set(xlabel="step", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        _plain(axes)
    return figure


def success_against_layers(points: Sequence[Point], num_layers: int, episodes: int) -> Figure:
    """Success with its 95 % Wilson interval over the mean number of executed layers."""
    figure, axes = _figure(5.6, 3.6)
    for index, point in enumerate(points):
        below, above = point.success - point.interval[0], point.interval[1] - point.success
        # Hollow markers of different shapes: methods often lie on top of each other.
        axes.errorbar(
            point.layers,
            100 * point.success,
            yerr=[[100 * below], [100 * above]],
            fmt=MARKERS[index % len(MARKERS)],
            color=COLOURS[index % len(COLOURS)],
            markerfacecolor="none",
            markersize=7,
            capsize=3,
            linewidth=1.2,
            label=point.name,
        )
    axes.set(
        xlabel=f"mean layers executed of {num_layers}, re-predictions included",
        ylabel=f"success, % of {episodes} episodes",
        xlim=(0, 1.04 * max([num_layers, *(point.layers for point in points)])),
        ylim=(-3, 103),
    )
    if points:
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def latency_breakdown(
    rows: Mapping[str, Mapping[str, float]], intervals: Mapping[str, Sequence[float]] | None = None
) -> Figure:
    """Fig. 10: the parts of one inference, stacked.

    Args:
        rows: Label (method, and how the row was obtained) -> part -> milliseconds; parts as in :data:`PARTS`.
        intervals: Label -> low and high end of the whole, milliseconds; written beside each bar.
    """
    figure, axes = _figure(6.0, 0.9 + 0.42 * len(rows))
    labels, left = list(rows), np.zeros(len(rows))
    for part, colour in PARTS.items():
        widths = np.array([rows[label].get(part, 0.0) for label in labels])
        if widths.any():
            axes.barh(labels, widths, left=left, color=colour, height=0.66, label=part)
            left += widths
    for place, label in enumerate(labels if intervals is not None else ()):
        low, high = (intervals or {})[label]
        error = np.maximum([[left[place] - low], [high - left[place]]], 0)  # of one episode, 0 up to rounding
        axes.errorbar(left[place], place, xerr=error, color="black", capsize=3)
        axes.annotate(f"{left[place]:.2f}", (high, place), (6, 0), textcoords="offset points", va="center", fontsize=8)
    if intervals is not None:
        axes.set_xlim(0, 1.12 * max(high for _, high in intervals.values()))
    axes.invert_yaxis()
    axes.set(xlabel="latency of one inference, ms")
    _legend_above(axes, columns=4)
    return figure


def token_staircase(rows: Sequence[Mapping[str, float]]) -> Figure:
    """The full pass on fewer tokens: milliseconds against tokens, and where they would lie if tokens were all of it.

    Args:
        rows: Each with ``tokens`` and ``llm_ms_p50``; the first has all tokens.
    """
    figure, axes = _figure(4.6, 3.0)
    tokens, ms = ([row[key] for row in rows] for key in ("tokens", "llm_ms_p50"))
    axes.plot([0, tokens[0]], [0, ms[0]], color=GREY, linewidth=1, linestyle="--", label="in proportion")
    axes.plot(tokens, ms, color=BLUE, marker="o", markersize=4, linewidth=1, label=str(rows[0].get("source", "")))
    axes.set(xlabel="tokens", ylabel="layers, ms", xlim=(0, None), ylim=(0, None))
    _legend_above(axes, columns=2)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write ``figure`` atomically: as PNG at 200 dots an inch, or as SVG, by the ending of ``path``.

    Raises:
        EnvironmentMismatch: If it cannot be written.
    """
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none"}):
        undated = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(buffer, format=path.suffix.removeprefix("."), dpi=200, facecolor="white", metadata=undated)
    atomic_write(path, buffer.getvalue())
    return path


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _legend_above(axes: Any, columns: int) -> None:
    axes.legend(frameon=False, fontsize=8, ncols=columns, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2)


def _label_layers(axes: Any, num_layers: int, static_layers: Collection[int]) -> None:
    """Number every layer if there is room, and star the static ones."""
    stride = 1 if num_layers <= 24 else 2
    shown = [layer for layer in range(num_layers) if layer % stride == 0 or layer in static_layers]
    axes.set_xticks(
        shown,
        [f"{layer}\n*" if layer in static_layers else str(layer) for layer in shown],
        fontsize=8 if num_layers <= 12 else 6,
    )


def _running_mean(values: np.ndarray) -> np.ndarray:
    """``[n]`` -> ``[n]``, the mean of the tenth of the values that ends at each."""
    width = max(1, len(values) // 10)
    sums = np.cumsum(np.concatenate([np.zeros(1), values]))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - width, 0)
    mean: np.ndarray = (sums[ends] - sums[begins]) / (ends - begins)
    return mean
