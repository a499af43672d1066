"""The studies of ``dyslctl analyze`` for people, one a file: the tables of a document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dyslctl.report.studies import allow_points, continuity, importance, kept_layers, latency, similarity, tokens
from dyslctl.report.tables import Table


@dataclass(frozen=True)
class Study:
    """One of them in a report.

    Attributes:
        title: Of its section.
        text: What it shows.
        tables: Those of its document.
    """

    title: str
    text: str
    tables: Callable[[Mapping[str, Any]], Sequence[Table]]


STUDIES: Mapping[str, Study] = {
    "importance": Study("Which part of an episode matters", importance.TEXT, importance.tables),
    "similarity": Study("Which layers can be spared", similarity.TEXT, similarity.tables),
    "kept-layers": Study("Kept layers", kept_layers.TEXT, kept_layers.tables),
    "continuity": Study("Continuity and the cost of skipping", continuity.TEXT, continuity.tables),
    "allow-points": Study("Skipping-allow points in one episode", allow_points.TEXT, allow_points.tables),
    "latency": Study("Where the time goes", latency.TEXT, latency.tables),
    "tokens": Study("Retained tokens in one episode", tokens.TEXT, tokens.tables),
}
"""By the name of the command, in the order of the paper's figures."""
