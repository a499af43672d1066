"""``dyslctl analyze ...``: studies of a run, each with its figure. One file a study."""

from __future__ import annotations

from collections.abc import Callable

import typer

from dyslctl.cli.analyze import pareto
from dyslctl.cli.command import Command

app = typer.Typer(name="analyze", help="Studies of a run, each with its figure.", no_args_is_help=True)

STUDIES: dict[str, Callable[..., None]] = {
    "pareto": pareto.pareto,
}
for name, function in STUDIES.items():
    app.command(name, cls=Command)(function)
