"""Tables and figures of the studies, from documents by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dyslctl.report.figures import allow_points as allow_points_figure
from dyslctl.report.figures import continuity as continuity_figure
from dyslctl.report.figures import importance as importance_figure
from dyslctl.report.figures import kept_layers as kept_layers_figure
from dyslctl.report.figures import similarity as similarity_figure
from dyslctl.report.studies import allow_points, continuity, importance, kept_layers, similarity
from dyslctl.report.tidy import csv_text

SUCCESS = {
    "success_rate": 0.5, "success_low": 0.4, "success_high": 0.6, "wins": 0, "losses": 5,
    "difference": -0.5, "difference_low": -0.6, "difference_high": -0.4, "p_value": 0.06,
}  # fmt: skip
ABOUT = {"suite": "reach", "split": "test", "episodes": 10, "seed": 0, "num_layers": 8, "dtype": "float32"}
FULL = {"success_rate": 1.0, "success_ci95": [0.9, 1.0]}


def test_tidy_csv_has_every_column_and_leaves_out_what_is_not_known() -> None:
    assert csv_text([{"a": 1, "b": None}, {"a": 2, "c": "x,y"}]) == 'a,b,c\n1,,\n2,,"x,y"\n'


@pytest.fixture
def ranges() -> dict[str, Any]:
    damage = {"damage": 0.2, "damage_low": 0.1, "damage_high": 0.3, "skipped": 1.5, "inferences": 4, **SUCCESS}
    rows = [{"low": None, "high": -0.3, "share": 0.25, **damage}, {"low": -0.3, "high": None, "share": 0.75, **damage}]
    auc: dict[str, Any] = {"inferences": 40, "damaged": 4}
    auc |= {"over_delta": 0.0, "over_delta_low": 0.0, "over_delta_high": 0.0}
    names = {"delta": 0.7, "asked": 0.9, "delta after": 0.6}
    signals = [
        {"signal": key, "name": f"name of {key}", "auc": value, "auc_low": value - 0.1, "auc_high": value + 0.05, **auc}
        for key, value in names.items()
    ]
    return {
        **ABOUT,
        "method": "dysl",
        "dial": 3.0,
        "k": 5,
        "skipped_layers": 3.0,
        "full": FULL,
        "rows": rows,
        "everywhere": {**rows[0], "high": None},
        "damaged_share": 0.1,
        "signals": signals,
    }


def test_a_loss_is_what_the_difference_is_below_zero(ranges: dict[str, Any]) -> None:
    table, signals = continuity.tables(ranges)
    assert [row[0] for row in table.rows] == ["< -0.30", "≥ -0.30", "all"]
    assert table.rows[0][6:8] == ("+50.0", "+40.0 to +60.0")
    assert [row[0] for row in signals.rows] == ["name of asked", "name of delta", "name of delta after"]
    drawn = continuity_figure.figure(ranges)
    left, middle, right, twin = drawn.axes
    assert [bar.get_height() for bar in left.patches] == [25.0, 75.0]
    assert list(twin.containers[0].lines[0].get_ydata()) == [50.0, 50.0]
    assert [bar.get_height() for bar in middle.patches] == [20.0, 20.0]
    assert [label.get_text() for label in right.get_yticklabels()][-1] == "name of asked", "the best one on top"


def test_the_layers_and_what_success_is_without_each() -> None:
    rows = [{"layer": layer, "static": layer == 0, "similarity": 0.5 + layer / 10, **SUCCESS} for layer in range(3)]
    document = {**ABOUT, "samples": 16, "full": FULL, "rank_correlation": None, "heat_map": np.eye(3).tolist()}
    document["rows"] = rows
    (table,) = similarity.tables(document)
    assert [row[1] for row in table.rows] == ["static", "dynamic", "dynamic"] and table.rows[0][3] == "50.0 %"
    axes = similarity_figure.figure(document).axes
    assert [len(container.patches) for container in axes[1].containers] == [2, 1]


def test_a_curve_a_part_begins_undisturbed() -> None:
    parts = [{"part": at, "start": at / 2, "stop": (at + 1) / 2, "speed": 1.0, "flips": 0.5} for at in range(2)]
    rows = [{"part": part, "noise": noise, **SUCCESS} for part in range(2) for noise in (1.0, 0.5)]
    document = {**ABOUT, "method": "full", "undisturbed": FULL, "parts": parts, "rows": rows}
    (table,) = importance.tables(document)
    assert table.rows[0][:4] == ("0–50 %", "0.50", "1.00", "1")
    curve = importance_figure.figure(document).axes[0].containers[0].lines[0]
    assert list(curve.get_ydata()) == [100.0, 50.0, 50.0]
    assert np.diff(curve.get_xdata()) == pytest.approx([0.5, 0.5])


def test_the_histogram_stands_beside_the_times() -> None:
    quartiles = {"llm_ms_p25": 1.0, "llm_ms_p50": 2.0, "llm_ms_p75": 4.0}
    rows = [
        {"method": name, "layers": layers, "inferences": 5, "share": 0.5, **quartiles}
        for name in ("full", "dysl")
        for layers in (3, 8)
    ]
    found = {**FULL, "mean_layers_run": 5.5}
    document = {**ABOUT, "methods": {"full": found, "dysl": found}, "rows": rows}
    (table,) = kept_layers.tables(document)
    assert table.rows[0] == ("full", "3", "5", "50.0 %", "1.00", "2.00", "4.00")
    left, right = kept_layers_figure.figure(document).axes
    assert [bar.get_height() for bar in left.patches] == [50.0] * 4
    assert len(right.containers) == 2


def test_points_are_drawn_over_the_steps_with_pictures_below() -> None:
    moment = {"executed": 2, "layers": 8, "jumps": 0, "verified": False, "continuity": None}
    moments = [
        {**moment, "inference": at, "step": 2 * at, "points": (at,), "delta": -0.1 * at or None, "gripper": grip}
        for at, grip in enumerate([1.0, 1.0, -1.0])
    ]
    document = {**ABOUT, "method": "dysl-paper", "episode": 0, "task": "t", "instruction": "reach", "solved": True}
    document |= {"steps": 6, "segments": [[1, 2, 3]], "eta_1": -0.05, "eta_2": 0.01, "moments": moments}
    (table,) = allow_points.tables(document)
    assert table.rows[2][2:4] == ("2/3", "-0.200") and table.rows[2][7] == "-1"
    axes = allow_points_figure.figure(document, [np.zeros((4, 4, 3), np.uint8)] * 3).axes
    assert [panel.get_title() for panel in axes[2:]] == ["step 2", "step 4", "step 6"]
