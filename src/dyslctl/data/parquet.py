"""Rows of a parquet file, without reading the rest of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from dyslctl.data.optional import require
from dyslctl.errors import ArtifactError

PURPOSE = "reading a LeRobot data set"


def read_table(path: Path, columns: Sequence[str] | None = None) -> Any:
    """The whole of a small file, a ``pyarrow.Table``.

    Raises:
        ArtifactError: If it is missing or damaged.
        EnvironmentMismatch: If pyarrow is not installed.
    """
    parquet = require("pyarrow.parquet", PURPOSE)
    with _reading(path), parquet.ParquetFile(path) as file:
        return file.read(columns=None if columns is None else list(columns))


def read_rows(path: Path, start: int, stop: int, columns: Sequence[str]) -> Any:
    """Rows ``start`` to ``stop``, a ``pyarrow.Table``; only the row groups that hold them are read.

    Raises:
        ArtifactError: If the file is missing or damaged, or has no such rows or columns.
        EnvironmentMismatch: If pyarrow is not installed.
    """
    parquet = require("pyarrow.parquet", PURPOSE)
    with _reading(path), parquet.ParquetFile(path) as file:
        _check(path, file, stop, columns)
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        borders = list(pairwise(accumulate(sizes, initial=0)))
        groups = [group for group, (first, last) in enumerate(borders) if first < stop and last > start]
        table = file.read_row_groups(groups, columns=list(columns))
        return table.slice(start - borders[groups[0]][0], stop - start)


def _check(path: Path, file: Any, stop: int, columns: Sequence[str]) -> None:
    rows, names = file.metadata.num_rows, file.schema_arrow.names
    if rows < stop:
        raise ArtifactError(f"{path}: expected at least {stop} rows, found {rows}", hint="download the file again")
    if missing := [column for column in columns if column not in names]:
        raise ArtifactError(f"{path}: expected the columns {', '.join(missing)}, found {', '.join(names)}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    arrow = require("pyarrow", PURPOSE)
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactError(f"no such file: {path}", hint="download the data set again") from error
    except (arrow.ArrowException, OSError) as error:
        raise ArtifactError(f"cannot read {path}: {error}", hint="download the file again") from error
