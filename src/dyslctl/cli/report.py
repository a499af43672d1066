"""``dyslctl report``: everything a run found, in one self-contained HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dyslctl.cli.options import AsJson, Debug, RunName


def report(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: report/report.html in the run.")
    ] = None,
    run: RunName = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write one HTML file with everything a run found.

    Tables, figures, the commands that made them and the environment; nothing is loaded from elsewhere.
    """
    from dyslctl.artifacts.run_dir import open_run
    from dyslctl.cli.output import show
    from dyslctl.report.page import gather, summary, write_report

    results = gather(open_run(run))
    path = write_report(results, output)
    document = {
        "schema": "dyslctl.report/1",
        "report_path": str(path),
        "results": [found["schema"] for found in results.documents],
    }
    show(document, [summary(results)], as_json=as_json)
    if not as_json:
        typer.echo(f"report: {path}")
