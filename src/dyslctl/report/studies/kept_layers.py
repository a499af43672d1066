"""``dyslctl analyze kept-layers`` (Fig. 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dyslctl.report.cells import interval, number, percent
from dyslctl.report.tables import Column, Table

Document = Mapping[str, Any]
Row = Mapping[str, Any]
TEXT = "How many layers the inferences of each method run, and how long those with equally many take."


def tables(document: Document) -> list[Table]:
    """One row a method and number of layers, and the methods' success beside."""
    columns = [Column("method", numeric=False), Column("layers run"), Column("inferences"), Column("share")]
    columns += [Column("LLM ms p25"), Column("p50"), Column("p75")]
    rows = [
        (
            row["method"],
            str(row["layers"]),
            str(row["inferences"]),
            percent(row["share"]),
            *(number(row[f"llm_ms_p{quartile}"], 2) for quartile in (25, 50, 75)),
        )
        for row in document["rows"]
    ]
    notes = [
        f"{document['episodes']} paired {document['split']} episodes; layers run count re-predictions",
        *(
            f"{name}: solved {percent(found['success_rate'])} ({interval(found['success_ci95'])}), "
            f"{number(found['mean_layers_run'], 2)} layers an inference"
            for name, found in document["methods"].items()
        ),
    ]
    return [Table(f"Kept layers on {document['suite']}", columns, rows, notes)]
