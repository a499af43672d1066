"""stdout carries the result and nothing else; everything a person reads on the side goes to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from dyslctl.errors import ThresholdNotMet
from dyslctl.report.markdown import append_summary
from dyslctl.report.results import tables
from dyslctl.report.tables import Table, to_rich

PIPE_WIDTH = 160
"""Columns of a table that goes to a file or a pipe, where there is no terminal to ask."""


def show(document: dict[str, Any], shown: Sequence[Table] | None = None, *, as_json: bool) -> None:
    """Print ``document`` as JSON, or tables that say the same to a person.

    Args:
        document: The command's result.
        shown: The tables; by default those of the document's schema.
        as_json: Which of the two.
    """
    if as_json:
        sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
        return
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    # Rich would turn a closed pipe into exit code 1; written by hand it stays a BrokenPipeError.
    with console.capture() as rendered:
        for table in tables(document) if shown is None else shown:
            console.print(to_rich(table))
    sys.stdout.write(rendered.get())


def conclude(
    document: dict[str, Any],
    verdicts: Sequence[Callable[[], None]],
    summary: Path | None,
    *,
    as_json: bool,
) -> None:
    """Show ``document`` and write the summary, whether or not a threshold then fails the command.

    Args:
        document: The command's result.
        verdicts: Each raises ``ThresholdNotMet`` if the result is not good enough; all are heard.
        summary: Markdown file to append to.
        as_json: Print JSON instead of tables.

    Raises:
        ConfigError: If a condition names no number of the result.
        ThresholdNotMet: If any threshold is not met; says all that are not.
        EnvironmentMismatch: If the summary cannot be written.
    """
    show(document, as_json=as_json)
    broken = list[str]()
    for verdict in verdicts:
        try:
            verdict()
        except ThresholdNotMet as error:
            broken.append(error.message)
    if summary is not None:
        append_summary(summary, tables(document), "\n".join(broken) or None)
    if broken:
        raise ThresholdNotMet("\n".join(broken))


def note(message: str, *, quiet: bool = False) -> None:
    """One line on stderr."""
    if not quiet:
        Console(stderr=True, soft_wrap=True, highlight=False).print(message, markup=False)
