"""``dyslctl analyze similarity`` (Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dyslctl.report.cells import interval, number, percent
from dyslctl.report.tables import Column, Table

Document = Mapping[str, Any]
TEXT = "How alike each layer leaves its input, and what the untrained model loses without that layer."


def tables(document: Document) -> list[Table]:
    """One row a layer."""
    columns = [Column("layer"), Column("kind", numeric=False), Column("similarity"), Column("success without it")]
    columns += [Column("95 % interval"), Column("only with it"), Column("only without it"), Column("p (McNemar)")]
    rows = [
        (
            str(row["layer"]),
            "static" if row["static"] else "dynamic",
            number(row["similarity"], 4),
            percent(row["success_rate"]),
            interval((row["success_low"], row["success_high"])),
            str(row["losses"]),
            str(row["wins"]),
            f"{row['p_value']:.2g}",
        )
        for row in document["rows"]
    ]
    low, high = document["full"]["success_ci95"]
    notes = [
        f"all layers: {percent(document['full']['success_rate'])} ({interval((low, high))}); "
        f"{document['episodes']} paired {document['split']} episodes; Wilson intervals",
        f"Spearman's rho of similarity and success: {number(document['rank_correlation'], 2)}",
        f"similarity: mean cosine of input and output, {document['samples']} samples",
    ]
    return [Table(f"Layers of {document['suite']}, one left out at a time", columns, rows, notes)]
