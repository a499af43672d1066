from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest

from dyslctl.report.pareto import CSV_COLUMNS, csv_text, tables
from dyslctl.report.pareto_figure import figure
from dyslctl.report.results import tables as tables_of


def pooled(method: str, label: str, layers: float, success: float) -> dict[str, Any]:
    return {
        "method": method,
        "label": label,
        "budget": layers if label else None,
        "seeds": 2,
        "episodes": 1000,
        "success_rate": success,
        "success_ci95": [success - 0.02, min(1.0, success + 0.01)],
        "mean_score": success,
        "layers_per_inference": layers,
        "layers_per_inference_ci95": [layers - 0.1, layers + 0.1],
        "layers_per_episode": 20 * layers,
        "layers_per_episode_ci95": [20 * layers - 3, 20 * layers + 3],
        "inferences_per_episode": 20.0,
        "verifications_per_episode": 0.25,
    }


def seeds(point: dict[str, Any]) -> list[dict[str, Any]]:
    tune = {"episodes": 200, "successes": 199, "layers": point["layers_per_inference"] + 0.03, "met": True}
    more = {"dial": -1.25, "target_layers": None, "tune": tune, "llm_ms_mean": None}
    return [{**point, "seed": seed, **more} for seed in (0, 1)]


POOLED = [
    pooled("full", "", 12.0, 1.0),
    pooled("dysl", "6", 6.0, 0.995),
    pooled("dysl", "5", 5.0, 0.97),
    pooled("random", "5", 5.0, 0.88),
]
NEAREST = {
    "rival_label": "5",
    "delta_layers": 0.02,
    "delta_layers_per_episode": 1.0,
    "difference": 0.09,
    "difference_ci95": [0.07, 0.11],
    "wins": 95,
    "losses": 5,
    "ties": 900,
    "p_value": 1.2e-20,
}
BETWEEN = {"rival_success_rate": 0.885, "difference": 0.085, "difference_ci95": [0.06, 0.105]}
DOCUMENT: dict[str, Any] = {
    "schema": "dyslctl.pareto/1",
    "suite": "tabletop_object",
    "split": "test",
    "episodes": 1000,
    "tune_split": "tune",
    "tune_episodes": 200,
    "seeds": [0, 1],
    "methods": ["full", "dysl", "random"],
    "compared": "dysl",
    "num_layers": 12,
    "max_score": 1,
    "intervals": "95 % percentile bootstrap",
    "points": [point for each in POOLED[1:] for point in seeds(each)],
    "pooled": POOLED,
    "matched": [
        {"method": "dysl", "label": "5", "rival": "random", "interpolated": BETWEEN, "nearest": NEAREST},
        {"method": "dysl", "label": "6", "rival": "random", "interpolated": None, "nearest": NEAREST},
    ],
}


def test_the_tables_say_what_n_split_and_seeds_are() -> None:
    curves, matched = tables(DOCUMENT)
    assert tables_of(DOCUMENT) == [curves, matched]
    assert curves.rows[1] == ["dysl", "6", "99.50 %", "97.5–100.0", "6.00", "120.0", "20.0", "0.25"]
    assert "1000 test episodes" in curves.notes[0] and "seeds 0, 1" in curves.notes[0]
    assert "200 tune episodes" in curves.notes[1] and curves.notes[2] == DOCUMENT["intervals"]
    assert matched.rows == [
        ["dysl 5", "random", "+8.50", "+6.00 to +10.50", "5", "-0.02", "+9.00", "95", "5", "1.2e-20"],
        ["dysl 6", "random", "–", "–", "5", "-0.02", "+9.00", "95", "5", "1.2e-20"],
    ]


def test_chains_show_their_mean_score() -> None:
    (curves,) = tables({**DOCUMENT, "max_score": 5, "matched": []})
    assert [column.header for column in curves.columns][4] == "mean score of 5"
    assert curves.rows[0][4] == "1.00" and len(curves.rows[0]) == len(curves.columns)


def test_the_csv_has_a_row_a_point_and_seed() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(DOCUMENT))))
    assert list(rows[0]) == list(CSV_COLUMNS)
    assert [row["seed"] for row in rows] == ["0", "1"] * 3 + ["all"] * 4
    assert {row["split"] for row in rows} == {"test"}
    first = rows[0]
    assert (first["method"], first["dial"], first["tune_layers"], first["success_low"]) == (
        "dysl", "-1.25", "6.03", "0.975",
    )  # fmt: skip
    assert rows[-1]["dial"] == rows[-1]["llm_ms_mean"] == ""


def test_the_figure_has_a_line_a_method_from_few_layers_to_many() -> None:
    left, right = figure(DOCUMENT).axes
    dysl, random = left.containers
    assert (dysl.get_label(), random.get_label()) == ("dysl", "random")
    np.testing.assert_allclose(dysl.lines[0].get_xydata(), [[5, 97], [6, 99.5]])
    np.testing.assert_allclose(right.containers[0].lines[0].get_xydata(), [[100, 97], [120, 99.5]])
    across, up = dysl.lines[2]
    np.testing.assert_allclose(across.get_segments()[0], [[4.9, 97], [5.1, 97]])
    np.testing.assert_allclose(up.get_segments()[0], [[5, 95], [5, 98]])
    full = next(line for line in left.lines if line.get_label() == "full")
    assert set(full.get_ydata()) == {100} and left.get_title("right") == "full model: 12 layers →"
    assert right.get_title("right") == "full model: 240 layers →"
    assert left.get_xlim()[1] < 12


def test_the_figure_is_logarithmic_in_the_failures() -> None:
    """10 % and 1 % failures, 1 % and 0.1 %: nearly a decade each, half an episode (0.05 %) added to each."""
    drawn = figure(DOCUMENT)
    drawn.canvas.draw()
    axes = drawn.axes[0]
    height = axes.transScale.transform([[5, success] for success in (90, 99, 99.9, 100)])[:, 1]
    assert np.diff(height) == pytest.approx([np.log10(10.05 / 1.05), np.log10(1.05 / 0.15), np.log10(0.15 / 0.05)])
    assert axes.get_ylim()[1] > 100  # a curve without failures is not cut in half


def test_one_seed_and_no_rival_still_make_a_figure() -> None:
    alone = {**DOCUMENT, "seeds": [0], "methods": ["full", "dysl"], "matched": [], "pooled": POOLED[:3]}
    drawn = figure(alone)
    drawn.canvas.draw()
    assert "x 1 seeds" not in drawn.axes[0].get_ylabel() and "1000 episodes" in drawn.axes[0].get_ylabel()
