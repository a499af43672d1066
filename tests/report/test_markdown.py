from __future__ import annotations

from pathlib import Path

import pytest

from dyslctl.errors import EnvironmentMismatch
from dyslctl.report.markdown import append_summary
from dyslctl.report.tables import Column, Table

TABLE = Table("T", [Column("c")], [("1",)])


def test_appends_to_what_other_steps_wrote(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    append_summary(path, [TABLE])
    assert path.read_text() == "before\n### T\n\n| c |\n| ---: |\n| 1 |\n\n"


def test_a_failure_comes_first_on_every_line(tmp_path: Path) -> None:
    append_summary(tmp_path / "s.md", [TABLE], "two\nlines")
    assert (tmp_path / "s.md").read_text().startswith("> [!CAUTION]\n> two\n> lines\n\n### T")


def test_an_unwritable_file_is_an_environment_error(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentMismatch):
        append_summary(tmp_path, [TABLE])
