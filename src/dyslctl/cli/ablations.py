"""The tables of ``dyslctl analyze ablation``: which cells, declared in ``ablations.yaml`` or a file like it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from dyslctl.artifacts.document import Document, Part
from dyslctl.artifacts.strict_yaml import read_yaml
from dyslctl.errors import ConfigError
from dyslctl.plugins import did_you_mean

BUILT_IN = Path(__file__).with_name("ablations.yaml")
SECTIONS = ("profile.", "distill.", "guidance.", "pruning.", "execute_horizon=")
"""What a cell may set: what is learnt and how it is run, not on what."""


class Cell(Part):
    """One row.

    Attributes:
        name: What the table calls it.
        method: As ``eval --method`` calls it.
        set: Settings laid over the run's, as ``--set`` takes them.
    """

    name: str
    method: str
    set: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _sets_what_a_cell_may(self) -> Self:
        for assignment in self.set:
            if not assignment.startswith(SECTIONS) or "=" not in assignment:
                raise ValueError(f"{assignment!r} is no setting of {', '.join(part[:-1] for part in SECTIONS)}")
        return self


class Table(Part):
    """Cells, and the one that the others are compared with.

    Attributes:
        title: What it shows.
        reference: Name of that cell.
        source: Where the paper has it.
        share: Of the layers, that every cell is set to run; ``None``: cells stay as they are trained.
    """

    title: str
    reference: str
    source: str | None = None
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    cells: Annotated[tuple[Cell, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        names = Counter(cell.name for cell in self.cells)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"two cells are called {twice[0]!r}")
        if self.reference not in names:
            raise ValueError(f"no cell is called {self.reference!r}, the reference; cells: {', '.join(names)}")
        return self


class Tables(Document):
    """The content of such a file."""

    SCHEMA: ClassVar[str] = "dyslctl.ablations/1"

    tables: dict[str, Table]


def built_in() -> dict[str, Table]:
    """The tables that come with the package."""
    return Tables.parse(read_yaml(BUILT_IN), str(BUILT_IN)).tables


def load_table(asked: str) -> tuple[str, Table]:
    """The table called ``asked``, or the one of the file ``asked`` (``FILE:NAME`` if it holds several), with its name.

    Raises:
        ConfigError: If there is none.
        ArtifactError: If the file is missing or wrong.
    """
    file, _, name = asked.partition(":")
    if file.endswith((".yaml", ".yml")):
        known = Tables.parse(read_yaml(Path(file)), file).tables
        name = name or (next(iter(known)) if len(known) == 1 else "")
    else:
        known, name, file = built_in(), asked, ""
    if name not in known:
        found = f"no table '{name}'{f' in {file}' if file else ''}." if name else f"{file} holds several tables."
        raise ConfigError(
            f"--table: {found}{did_you_mean(name, list(known))}\n  known: {', '.join(known)}",
            hint=f"--table {file}:NAME" if file else "a file with tables of your own is --table FILE.yaml",
        )
    return name, known[name]
