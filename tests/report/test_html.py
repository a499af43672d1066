from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dyslctl.errors import ArtifactError
from dyslctl.report.html import Figure, Link, Section, render
from dyslctl.report.tables import Column, Table

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class _Checker(HTMLParser):
    """Every tag is closed, and nothing is loaded from anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.resources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.resources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _checked(html: str) -> _Checker:
    checker = _Checker()
    checker.feed(html)
    assert checker.open == []
    return checker


def test_the_file_is_whole_and_self_contained(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PIXEL)
    table = Table("Latency", [Column("method", numeric=False), Column("source", numeric=False)], [("full", "measured")])
    section = Section("Bench", "Text.", [table], [Figure(tmp_path / "a.png", "A pixel")])
    html = render("Report", [section], ["dyslctl bench"], {"torch": "2.13"})
    checker = _checked(html)
    assert checker.resources == [f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"]
    assert '<span class="badge measured">measured</span></td>' in html
    for text in ("Report", "Bench", "A pixel", "dyslctl bench", "2.13"):
        assert text in checker.text


def test_videos_are_linked() -> None:
    """They are the one thing that the file does not hold itself."""
    section = Section("Evaluation", "Text.", videos=[Link("../eval/a b/full/x-0-failed.mp4", "full: <x>")])
    html = render("Report", [section], [], {})
    assert _checked(html).resources == ["../eval/a%20b/full/x-0-failed.mp4"]
    assert "Videos: 1" in html and "full: &lt;x&gt;" in html


def test_text_is_escaped() -> None:
    nasty = "<script>alert(1)</script>"
    table = Table(nasty, [Column(nasty)], [(nasty,)], [nasty])
    html = render(nasty, [Section(nasty, nasty, [table])], [nasty], {nasty: nasty})
    assert "<script" not in html
    assert nasty in _checked(html).text


def test_a_missing_figure_is_an_artifact_error(tmp_path: Path) -> None:
    section = Section("s", "t", figures=[Figure(tmp_path / "none.png", "c")])
    with pytest.raises(ArtifactError, match=r"none\.png"):
        render("r", [section], [], {})
