"""``dyslctl analyze allow-points`` (Fig. 8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dyslctl.report.cells import number
from dyslctl.report.tables import Column, Table

Document = Mapping[str, Any]
Row = Mapping[str, Any]
TEXT = "How the skipping-allow points move through one episode: layers before a point are forced to run."


def tables(document: Document) -> list[Table]:
    """One row an inference."""
    columns = [Column("inference"), Column("step"), Column("forced", numeric=False), Column("delta C")]
    columns += [Column("layers run"), Column("skips"), Column("again", numeric=False), Column("gripper", numeric=False)]
    rows = [
        (
            str(row["inference"]),
            str(row["step"]),
            " ".join(f"{at}/{len(layers)}" for at, layers in zip(row["points"], document["segments"], strict=True)),
            number(row["delta"], 3),
            str(row["layers"]),
            str(row["jumps"]),
            "yes" if row["verified"] else "",
            _gripper(row["gripper"]),
        )
        for row in document["moments"]
    ]
    ending = "solved" if document["solved"] else "not solved"
    notes = [
        f"episode {document['episode']}, {document['task']}: {document['instruction']}",
        f"{ending} after {document['steps']} steps",
        f"forced: dynamic layers that must run, of each segment ({_segments(document)}); "
        f"eta 1 = {document['eta_1']:.3g}, eta 2 = {document['eta_2']:.3g}",
    ]
    return [Table(f"Allow points of {document['method']} in one episode of {document['suite']}", columns, rows, notes)]


def _gripper(value: float | None) -> str:
    return "" if value is None else f"{value:+.0f}"


def _segments(document: Document) -> str:
    return ", ".join(f"layers {layers[0]}-{layers[-1]}" for layers in document["segments"])
