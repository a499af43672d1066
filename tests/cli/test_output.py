from __future__ import annotations

import sys

import pytest

from dyslctl.cli import output
from dyslctl.report.tables import Column, Table

TABLE = Table(
    "Latency",
    [Column("method", numeric=False), *[Column(f"milliseconds of part {number}") for number in range(8)]],
    [["random-skip-adapters", *["1,234.56"] * 8]],
)


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_no_number_is_cut_however_narrow_the_terminal(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.show({}, [TABLE], as_json=False)
    shown = capsys.readouterr().out
    assert shown.count("1,234.56") == 8 and "random-skip-adapters" in shown and "…" not in shown
