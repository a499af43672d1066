from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dyslctl.report.tables import Column, Table, to_markdown, to_rich

TABLE = Table(
    "Success", [Column("method", numeric=False), Column("rate")], [("full", "94.0 %"), ("dysl", "–")], ["n=50"]
)


def test_markdown_by_hand() -> None:
    assert to_markdown(TABLE) == (
        "### Success\n\n| method | rate |\n| --- | ---: |\n| full | 94.0 % |\n| dysl | – |\n\n- n=50\n"
    )


def test_the_terminal_shows_the_same_cells() -> None:
    output = io.StringIO()
    Console(file=output, width=80).print(to_rich(TABLE))
    for text in ("Success", "method", "rate", "full", "94.0 %", "dysl", "n=50"):
        assert text in output.getvalue()


def test_cells_are_never_markup() -> None:
    output = io.StringIO()
    Console(file=output, width=80).print(to_rich(Table("[t]", [Column("[red]c")], [("[bold]x[/bold]",)], ["[n]"])))
    for text in ("[t]", "[red]c", "[bold]x[/bold]", "[n]"):
        assert text in output.getvalue()


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_any_cell_stays_in_its_column(cells: list[str]) -> None:
    row = to_markdown(Table("t", [Column("c")] * len(cells), [cells])).split("\n", 4)[4]
    unescaped = row.replace("\\\\", "").replace("\\|", "")
    assert unescaped.count("|") == len(cells) + 1
    assert row.count("\n") == 1 and row.endswith("|\n")
