"""The tables of an evaluation on several suites: success as measured and as printed, latency by source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dyslctl.report.cells import MISSING, crashes, interval, number, percent
from dyslctl.report.tables import Column, Table

Document = Mapping[str, Any]


def tables(document: Document) -> list[Table]:
    """Success on each suite, then the LLM's time on each device."""
    return [_success(document), _latency(document)]


def _success(document: Document) -> Table:
    suites = list(document["suites"])
    columns = [Column("method", numeric=False), Column("source", numeric=False), *map(Column, suites)]
    columns += [Column("mean"), Column("layers run"), Column("printed in", numeric=False)]
    rows = [
        (
            row["method"],
            row["source"],
            *(_rate(row, suite) for suite in suites),
            percent(row["mean"]),
            number(row.get("layers"), 2),
            row.get("citation", ""),
        )
        for row in document["success"]
    ]
    notes = [
        f"measured: {document['episodes']} paired {document['split']} episodes a suite, Wilson 95 % intervals in "
        f"percent; {document['backbone']} of {document['num_layers']} layers, re-predictions counted",
        *(line for suite, found in document["suites"].items() for line in crashes(found["methods"], f" on {suite}")),
        *_flags(document["success"]),
    ]
    return Table("Success by suite", columns, rows, notes)


def _rate(row: Document, suite: str) -> str:
    found = row.get("ci95", {}).get(suite)
    rate = percent(row["rates"].get(suite))
    return rate if found is None or rate == MISSING else f"{rate} ({interval(found)})"


def _latency(document: Document) -> Table:
    names = ("method", "device", "source")
    columns = [Column(name, numeric=False) for name in names]
    columns += [Column("LLM ms"), Column("± %"), Column("layers run"), Column("LLM speedup")]
    columns += [Column("printed in", numeric=False)]
    rows = [
        (
            *(str(row[name]) for name in names),
            number(row["llm_ms"], 2),
            number(row.get("band_pct"), 0),
            number(row["layers_run"], 2),
            number(row["speedup"], 2),
            row.get("citation", ""),
        )
        for row in document["latency"]
    ]
    notes = [f"measured on {document['machine']}, mean of all inferences, at the size of the loaded model"]
    if not any(row["source"] == "measured" for row in document["latency"]):
        notes = ["nothing measured: episodes were played side by side (--workers 1 and --batch 1 time them)"]
    sizes = sorted({row["workload"] for row in document["latency"] if "workload" in row})
    notes += [f"predicted for {size}, from the layers that the episodes ran" for size in sizes]
    notes += sorted({f"predicted: {row['calibration']}" for row in document["latency"] if row.get("calibration")})
    return Table("Latency of the LLM", columns, rows, [*notes, *_flags(document["latency"])])


def _flags(rows: list[Document]) -> list[str]:
    return [f"published {row['method']}: {row['flag']}" for row in rows if row.get("flag")]
