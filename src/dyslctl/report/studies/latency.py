"""``dyslctl analyze latency`` (Fig. 10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dyslctl.report.cells import interval, number, percent
from dyslctl.report.tables import Column, Table

Document = Mapping[str, Any]
TEXT = "Where the time of one inference goes while the robot acts, methods interleaved, batch 1."


def tables(document: Document) -> list[Table]:
    """One row a method."""
    shown = list(document["breakdowns"][0]["parts_ms"])
    columns = [Column("method", numeric=False), *(Column(f"{part}, ms") for part in shown), Column("together, ms")]
    columns += [Column("95 % interval"), Column("layers run")]
    rows = [
        (
            row["method"],
            *(number(row["parts_ms"].get(part), 2) for part in shown),
            number(row["total_ms"], 2),
            f"{row['total_ms_ci95'][0]:.2f}–{row['total_ms_ci95'][1]:.2f}",
            number(row["layers"], 2),
        )
        for row in document["breakdowns"]
    ]
    notes = [
        f"measured on {document['machine']}, {document['dtype']}; {document['episodes']} paired {document['split']} "
        "episodes; means an inference, bootstrap interval over episodes",
        "how a pass divides into layers, controllers and adapters is measured apart, with a clock at every layer",
        *(
            f"{name}: solved {percent(found['success_rate'])} ({interval(found['success_ci95'])})"
            for name, found in document["methods"].items()
        ),
    ]
    return [Table(f"Where the time goes on {document['suite']}", columns, rows, notes)]
