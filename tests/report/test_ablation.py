"""The table of an ablation, and its CSV, by hand."""

from __future__ import annotations

import csv
from typing import Any

from dyslctl.report.ablation import CSV_COLUMNS, csv_text
from dyslctl.report.results import tables

BETTER = {
    "rival_label": "",
    "difference": 0.125,
    "difference_ci95": [0.05, 0.2],
    "wins": 6,
    "losses": 1,
    "ties": 33,
    "p_value": 0.125,
}


def cell(name: str, success: float, better: dict[str, Any] | None, *settings: str) -> dict[str, Any]:
    return {
        "name": name,
        "method": "dysl-paper",
        "set": list(settings),
        "refused": None,
        "episodes": 40,
        "success_rate": success,
        "success_ci95": [success - 0.1, success + 0.1],
        "mean_score": 2 * success,
        "layers_per_inference": 6.0,
        "layers_per_episode": 120.0,
        "inferences_per_episode": 20.0,
        "verifications_per_episode": 0.5,
        "reference_better": better,
    }


REFUSED = {"name": "10 %", "method": "dysl-paper", "set": ["profile.ratio=0.1"], "refused": "1 static layers of 8"}
DOCUMENT: dict[str, Any] = {
    "schema": "dyslctl.ablation/1",
    "table": "5",
    "title": "Share of static layers",
    "source": "Table 5",
    "suite": "reach",
    "split": "test",
    "episodes": 40,
    "tune_split": "tune",
    "tune_episodes": None,
    "layers": None,
    "seeds": [0],
    "reference": "20 %",
    "max_score": 1,
    "intervals": "Wilson",
    "cells": [cell("20 %", 0.75, None), cell("30 %", 0.625, BETTER, "profile.ratio=0.3", "distill.steps=9"), REFUSED],
    "points": [{**cell("", 0.625, None), "method": "30 %", "seed": 0, "dial": -1.0, "llm_ms_mean": None}],
}


def test_every_cell_has_a_row_and_what_cannot_be_made_says_why() -> None:
    (table,) = tables(DOCUMENT)
    assert table.title == "Share of static layers (Table 5), on reach"
    reference, other, refused = table.rows
    assert list(reference[:3]) == ["20 %", "75.0 %", "65.0–85.0"] and reference[6] == "reference"
    assert list(other[6:]) == ["+12.50", "+5.00 to +20.00", "6", "1", "0.12"]
    assert refused[0] == "10 %" and set(refused[1:]) == {"–"}
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert "10 %: not possible here: 1 static layers of 8" in table.notes
    assert any("cells as they are trained" in note for note in table.notes)


def test_a_budget_is_said_and_chains_have_a_score() -> None:
    (table,) = tables({**DOCUMENT, "max_score": 5, "layers": 6.0, "tune_episodes": 100})
    assert [column.header for column in table.columns][3] == "mean score of 5"
    assert table.rows[0][3] == "1.50" and all(len(row) == len(table.columns) for row in table.rows)
    assert any("every cell set to 6 layers on 100 tune episodes" in note for note in table.notes)


def test_the_csv_is_tidy() -> None:
    rows = list(csv.DictReader(csv_text(DOCUMENT).splitlines()))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [(row["cell"], row["seed"]) for row in rows] == [
        ("20 %", "all"),
        ("30 %", "0"),
        ("30 %", "all"),
        ("10 %", "all"),
    ]
    pooled = rows[2]
    assert pooled["settings"] == "profile.ratio=0.3 distill.steps=9" and pooled["method"] == "dysl-paper"
    assert (pooled["reference_better"], pooled["reference_better_low"], pooled["p_value"]) == ("0.125", "0.05", "0.125")
    assert rows[1]["reference_better"] == "" and rows[1]["dial"] == "-1.0"
    assert rows[3]["refused"] == "1 static layers of 8" and rows[3]["success_rate"] == ""
