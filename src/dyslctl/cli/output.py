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
ENDLESS = 10_000
"""Columns in which any table finds room, to see how many it needs."""


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
    for table in tables(document) if shown is None else shown:
        sys.stdout.write(_rendered(table))


def _rendered(table: Table) -> str:
    """As wide as the terminal, or as the table needs: there its lines wrap, which is better than numbers cut short."""
    width = Console().width if sys.stdout.isatty() else PIPE_WIDTH
    shown, endless = to_rich(table), Console(width=ENDLESS)
    if endless.measure(shown).maximum > width:
        shown = to_rich(table, narrow=True)
        width = max(width, endless.measure(shown).minimum)
    console = Console(width=width)
    # Rich would turn a closed pipe into exit code 1; written by hand it stays a BrokenPipeError.
    with console.capture() as rendered:
        console.print(shown)
    return rendered.get()


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
