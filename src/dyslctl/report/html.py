"""One self-contained HTML file: no script, no external resource, readable in light and dark."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from dyslctl.artifacts.files import reading
from dyslctl.report.tables import Table

SOURCES = ("measured", "predicted", "published")
"""How a latency was obtained. A cell with one of these words is shown as a badge, so that they are never mixed up."""


@dataclass(frozen=True)
class Figure:
    """A PNG file with its caption."""

    path: Path
    caption: str

    def data_uri(self) -> str:
        """The image itself, as a ``data:`` address.

        Raises:
            ArtifactError: If it cannot be read.
        """
        with reading(self.path):
            return f"data:image/png;base64,{base64.b64encode(self.path.read_bytes()).decode()}"


@dataclass(frozen=True)
class Link:
    """Another file, by its way from the report."""

    way: str
    text: str


@dataclass(frozen=True)
class Section:
    """One heading of the report with its tables and figures, and the videos that it may be seen in."""

    title: str
    text: str
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    videos: Sequence[Link] = ()


def render(title: str, sections: Sequence[Section], commands: Sequence[str], environment: Mapping[str, str]) -> str:
    """The report as one HTML document; all text is escaped.

    Args:
        title: Heading of the page.
        sections: In reading order.
        commands: What to type to get the same results, shown at the end.
        environment: Name -> version or value, shown at the end.
    """
    jinja = Environment(loader=PackageLoader("dyslctl.report"), autoescape=True, undefined=StrictUndefined)
    template = jinja.get_template("report.html")
    return template.render(title=title, sections=sections, commands=commands, environment=environment, sources=SOURCES)
