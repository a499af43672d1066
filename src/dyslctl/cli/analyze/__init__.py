"""``dyslctl analyze ...``: studies of a run, each with its figure. One file a study."""

from __future__ import annotations

from collections.abc import Callable

import typer

from dyslctl.cli.analyze import (
    ablation,
    allow_points,
    continuity,
    importance,
    kept_layers,
    latency,
    pareto,
    similarity,
    tokens,
)
from dyslctl.cli.command import Command

app = typer.Typer(name="analyze", help="Studies of a run, each with its figure.", no_args_is_help=True)

STUDIES: dict[str, Callable[..., None]] = {
    "pareto": pareto.pareto,
    "importance": importance.importance,
    "similarity": similarity.similarity,
    "kept-layers": kept_layers.kept_layers,
    "continuity": continuity.continuity,
    "allow-points": allow_points.allow_points,
    "latency": latency.latency,
    "tokens": tokens.tokens,
    "ablation": ablation.ablation,
}
for name, function in STUDIES.items():
    app.command(name, cls=Command)(function)
