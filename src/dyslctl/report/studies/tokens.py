"""``dyslctl analyze tokens`` (SpecPrune-VLA, Figures 2 and 14)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dyslctl.report.cells import number, percent
from dyslctl.report.tables import Column, Table

Document = Mapping[str, Any]
TEXT = (
    "Which visual tokens stay through one episode, and whether those that a full pass finds important are among them."
)


def tables(document: Document) -> list[Table]:
    """One row an inference; one row a layer."""
    visual = sum(document["tokens_per_view"])
    columns = [*map(Column, ("inference", "step", "kept first", "at the end", "recall first", "at the end", "before"))]
    rows = [
        (
            str(row["inference"]),
            str(row["step"]),
            str(row["kept_first"]),
            str(row["kept"]),
            percent(row["recall_first"]),
            percent(row["recall"]),
            percent(row["carried"]),
        )
        for row in document["moments"]
    ]
    ending = "solved" if document["solved"] else "not solved"
    means = document["means"]
    notes = [
        f"episode {document['episode']}, {document['task']}: {document['instruction']}",
        f"{ending} after {document['steps']} steps; {visual} visual tokens, of which {document['important']} count as "
        "important: those that the prompt attends to most in a full pass",
        f"means from the second inference on: {number(means['kept'], 1)} kept, recall {percent(means['recall_first'])} "
        f"after the first pruning and {percent(means['recall'])} at the end; {percent(means['carried'])} were "
        "important in the inference before, too",
    ]
    layers = [(str(r["layer"]), number(r["entropy"], 3), number(r["entropy_sd"], 3)) for r in document["layers"]]
    uniform = [f"all tokens alike: {document['uniform_entropy']:.3f}; of the full pass"]
    title = f"Tokens that {document['method']} retains in one episode of {document['suite']}"
    return [
        Table(title, columns, rows, notes),
        Table("Entropy of the prompt's attention, nats", [*map(Column, ("layer", "mean", "sd"))], layers, uniform),
    ]
