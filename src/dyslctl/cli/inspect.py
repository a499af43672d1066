"""``dyslctl inspect``: show and verify any artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dyslctl.cli.options import AsJson, Debug


def inspect(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Skip profile, bundle, run, episodes or checkpoint.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show and verify any artifact.

    Recognised by its content; schema, checksums and every tensor are checked. Exit code 4 if anything is wrong.
    """
    from dyslctl.cli.output import show
    from dyslctl.jobs.inspection import inspect as job

    found = job(path)
    document = {**found.facts, "schema": "dyslctl.inspect/1", "kind": found.kind, "path": str(path), "valid": True}
    show(document, as_json=as_json)
