"""The figure of ``dyslctl analyze importance`` (Fig. 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dyslctl.report.plots import (
    COLOURS,
    GREY,
    MARKERS,
)
from dyslctl.report.studies.importance import span

Document = Mapping[str, Any]


def figure(document: Document) -> Figure:
    """Left success over the noise, a curve a part; right what the robot does in each part."""
    drawn = Figure(figsize=(9.0, 3.5), layout="constrained")
    left, middle, right = drawn.subplots(1, 3, width_ratios=(2.3, 1, 1))
    for part in document["parts"]:
        _curve(left, document, part)
    left.set(xlabel="noise, standard deviation of normalised actions", ylim=(-3, 103))
    left.set_ylabel(f"success, % of {document['episodes']} episodes")
    left.legend(frameon=False, fontsize=8, title="disturbed part", title_fontsize=8, loc="lower left")
    _bars(middle, document["parts"], "flips", "gripper switches\nan episode")
    _bars(right, document["parts"], "speed", "mean speed, normalised")
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    return drawn


def _curve(axes: Axes, document: Document, part: Mapping[str, Any]) -> None:
    """From the undisturbed episodes on; curves a little apart, so that intervals can be told."""
    rows = sorted((row for row in document["rows"] if row["part"] == part["part"]), key=lambda row: float(row["noise"]))
    whole = document["undisturbed"]
    rates = 100 * np.array([whole["success_rate"], *(row["success_rate"] for row in rows)])
    ends = 100 * np.array([whole["success_ci95"], *((row["success_low"], row["success_high"]) for row in rows)]).T
    noise = np.array([0.0, *(row["noise"] for row in rows)])
    index, count = part["part"], len(document["parts"])
    apart = 0.012 * noise.max() * (index - (count - 1) / 2)
    axes.errorbar(
        noise + apart, rates, np.abs(ends - rates), color=COLOURS[index % len(COLOURS)], linewidth=1.3, elinewidth=0.8,
        marker=MARKERS[index % len(MARKERS)], markersize=4.5, capsize=2, label=span(part),
    )  # fmt: skip


def _bars(axes: Axes, parts: Sequence[Mapping[str, Any]], key: str, label: str) -> None:
    colours = [COLOURS[part["part"] % len(COLOURS)] for part in parts]
    axes.bar(range(len(parts)), [part[key] for part in parts], color=colours, width=0.75)
    axes.set_xticks(range(len(parts)), [span(part) for part in parts], rotation=60, fontsize=8)
    axes.set_ylabel(label)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color=GREY, alpha=0.2, linewidth=0.6)
