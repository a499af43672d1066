"""Markdown for a CI job's summary page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dyslctl.artifacts.files import make_folder, writing
from dyslctl.report.tables import Table, to_markdown


def append_summary(path: Path, tables: Sequence[Table], failure: str | None = None) -> None:
    """Append a result to ``path``, as ``$GITHUB_STEP_SUMMARY`` expects: other steps write to the same file.

    Args:
        path: Created with its folder if it does not exist.
        tables: The result.
        failure: Why the command will fail, shown first.

    Raises:
        EnvironmentMismatch: If it cannot be written.
    """
    blocks = [] if failure is None else [f"> [!CAUTION]\n> {failure.replace(chr(10), chr(10) + '> ')}\n"]
    blocks += [to_markdown(table) for table in tables]
    make_folder(path.parent)
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write("\n".join(blocks) + "\n")
