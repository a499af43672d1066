"""One table, three faces: the terminal (rich), Markdown and HTML show the same cells."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import rich.box
import rich.table
from rich.text import Text


@dataclass(frozen=True)
class Column:
    """A column; numbers are aligned to the right."""

    header: str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """Cells as text, with what a reader must know to interpret them below.

    Attributes:
        notes: Lines below the table: intervals, sources, error bands.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def to_rich(table: Table, *, narrow: bool = False) -> rich.table.Table:
    """For the terminal. Cell text is shown as it is, never read as markup.

    Args:
        table: What to show.
        narrow: Break headers into lines, and let no cell of one word be cut, as rich does where columns are many.
    """
    shown = rich.table.Table(
        title=Text(table.title),
        title_justify="left",
        caption=Text("\n".join(table.notes)) if table.notes else None,
        caption_justify="left",
        box=rich.box.SIMPLE_HEAD,
    )
    for number, column in enumerate(table.columns):
        cells, header = [row[number] for row in table.rows], column.header
        whole = narrow and not any(" " in cell for cell in cells)
        if whole:
            header = textwrap.fill(header, max(map(len, [*cells, *header.split(), " "])), break_long_words=False)
        shown.add_column(Text(header), justify="right" if column.numeric else "left", no_wrap=whole)
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown


def to_markdown(table: Table) -> str:
    """A GitHub-flavoured table below a heading, with the notes as a list."""
    header = _markdown_row([column.header for column in table.columns])
    rule = _markdown_row(["---:" if column.numeric else "---" for column in table.columns])
    lines = [f"### {table.title}", "", header, rule, *map(_markdown_row, table.rows)]
    if table.notes:
        lines += ["", *(f"- {note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |"
