"""``dyslctl analyze ablation`` for people: one table, and a tidy CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from dyslctl.report.cells import MISSING, interval, number, percent, points, points_interval
from dyslctl.report.tables import Column, Table

Document = Mapping[str, Any]
CSV_COLUMNS = (
    "table", "suite", "split", "cell", "method", "settings", "seed", "episodes", "success_rate", "success_low",
    "success_high", "mean_score", "layers_per_inference", "layers_per_episode", "inferences_per_episode",
    "verifications_per_episode", "dial", "llm_ms_mean", "reference_better", "reference_better_low",
    "reference_better_high", "p_value", "refused",
)  # fmt: skip


def tables(document: Document) -> list[Table]:
    """The table."""
    columns = [
        Column("cell", numeric=False),
        Column("success"),
        Column("95 % interval"),
        Column("layers/inference"),
        Column("layers/episode"),
        Column("verified/episode"),
        Column("reference better by, points"),
        Column("95 % interval"),
        Column("won"),
        Column("lost"),
        Column("p"),
    ]
    if document["max_score"] > 1:
        columns.insert(3, Column(f"mean score of {document['max_score']}"))
    rows = [_row(cell, document, len(columns)) for cell in document["cells"]]
    source = f" ({document['source']})" if document["source"] else ""
    return [Table(f"{document['title']}{source}, on {document['suite']}", columns, rows, _notes(document))]


def _notes(document: Document) -> list[str]:
    count, seeds = document["episodes"], ", ".join(map(str, document["seeds"]))
    layers = "cells as they are trained"
    if document["layers"] is not None:
        layers = f"every cell set to {document['layers']:g} layers on {document['tune_episodes']} "
        layers += f"{document['tune_split']} episodes, as near as it gets"
    return [
        f"n = {count} {document['split']} episodes, the same for all cells; training seeds {seeds}",
        f"{layers}; layers count re-predictions",
        f"reference: {document['reference']}; won, lost: initial states that it solved with more, with fewer training "
        "seeds; p: exact sign test of the two (McNemar's with one seed)",
        document["intervals"],
        *(f"{cell['name']}: not possible here: {cell['refused']}" for cell in document["cells"] if cell["refused"]),
    ]


def _row(cell: Mapping[str, Any], document: Document, width: int) -> list[str]:
    if cell["refused"]:
        return [cell["name"], *[MISSING] * (width - 1)]
    better = cell["reference_better"]
    score = [number(cell["mean_score"], 2)] if document["max_score"] > 1 else []
    against = ["reference" if cell["name"] == document["reference"] else MISSING, *[MISSING] * 4]
    if better is not None:
        against = [
            points(better["difference"]),
            points_interval(better["difference_ci95"]),
            str(better["wins"]),
            str(better["losses"]),
            f"{better['p_value']:.2g}",
        ]
    return [
        cell["name"],
        percent(cell["success_rate"]),
        interval(cell["success_ci95"]),
        *score,
        number(cell["layers_per_inference"], 2),
        number(cell["layers_per_episode"], 1),
        number(cell["verifications_per_episode"], 2),
        *against,
    ]


def csv_text(document: Document) -> str:
    """One row a cell and seed, and the pooled ones under the seed ``all``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cell in document["cells"]:
        own = [{**point, "method": cell["method"]} for point in document["points"] if point["method"] == cell["name"]]
        for row in [*own, {**cell, "seed": "all"}]:
            writer.writerow(_csv_row(row, cell, document))
    return text.getvalue()


def _csv_row(row: Mapping[str, Any], cell: Mapping[str, Any], document: Document) -> dict[str, Any]:
    about = {key: document[key] for key in ("table", "suite", "split")}
    known = {**row, **about, "cell": cell["name"], "settings": " ".join(cell["set"])}
    if row.get("success_ci95"):
        known["success_low"], known["success_high"] = row["success_ci95"]
    better = row.get("reference_better")
    known["reference_better"] = None
    if better:
        known |= {"reference_better": better["difference"], "p_value": better["p_value"]}
        known["reference_better_low"], known["reference_better_high"] = better["difference_ci95"]
    return {name: known.get(name) for name in CSV_COLUMNS}
