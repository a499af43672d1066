"""The index of a LeRobot data set: which rows of which file, and which seconds of which video, are an episode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dyslctl.artifacts.document import explain
from dyslctl.artifacts.files import read_json, read_jsonl
from dyslctl.data.parquet import read_table
from dyslctl.errors import ArtifactError

INFO = "meta/info.json"
VERSIONS = ("v2.0", "v2.1", "v3.0")
INDEX = ("episode_index", "task_index")
"""Columns that LeRobot itself adds to every row."""
AGAIN = "download the data set again"

Row = Mapping[str, Any]


class Feature(BaseModel):
    """One column: ``image`` is stored in the row, ``video`` beside it, all else is numbers."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    dtype: str


class Info(BaseModel):
    """What is read of ``meta/info.json``; the file holds more."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    codebase_version: str
    fps: float = Field(gt=0)
    features: dict[str, Feature]
    data_path: str
    video_path: str | None = None
    chunks_size: int = Field(default=1000, gt=0)

    @classmethod
    def load(cls, root: Path) -> Self:
        """The file below ``root``.

        Raises:
            ArtifactError: If it is missing, damaged, or of an unknown version.
        """
        path = root / INFO
        try:
            info = cls.model_validate(read_json(path))
        except ValidationError as error:
            raise ArtifactError(f"{path}:\n{explain(error, cls)}") from error
        if info.codebase_version not in VERSIONS:
            raise ArtifactError(
                f"{path}: expected codebase_version {', '.join(VERSIONS)}, found {info.codebase_version!r}",
                hint="lerobot converts older data sets",
            )
        return info

    @property
    def many_in_a_file(self) -> bool:
        """Version 3: a file holds many episodes."""
        return self.codebase_version.startswith("v3")

    def is_video(self, column: str) -> bool:
        """Whether the images of ``column`` are in a video."""
        return column in self.features and self.features[column].dtype == "video"


@dataclass(frozen=True)
class Place:
    """Where an episode is.

    Attributes:
        file: Its parquet file.
        start, stop: Its rows there.
        videos: Column -> video file, and the second at which the episode begins in it.
    """

    file: Path
    start: int
    stop: int
    videos: Mapping[str, tuple[Path, float]]

    def row(self, number: int) -> str:
        """Row ``number`` of the episode, for error messages."""
        return f"{self.file}, row {self.start + number}"


def episode_places(root: Path, info: Info, videos: Sequence[str]) -> list[Place]:
    """All episodes, by their number; ``videos`` are the columns to look at.

    Raises:
        ArtifactError: If the index is missing or damaged, or names an episode twice or with no rows.
        EnvironmentMismatch: If pyarrow is not installed.
    """
    places = _many_in_a_file(root, info, videos) if info.many_in_a_file else _one_a_file(root, info, videos)
    if missing := [number for number in range(len(places)) if number not in places]:
        raise ArtifactError(
            f"{root / 'meta'}: expected episodes 0 to {len(places) - 1}, episode {missing[0]} is missing", hint=AGAIN
        )
    return [places[number] for number in range(len(places))]


def task_names(root: Path, info: Info) -> dict[int, str]:
    """``task_index`` -> instruction.

    Raises:
        ArtifactError: If the file is missing or damaged, or a task has no words.
    """
    path = root / "meta" / ("tasks.parquet" if info.many_in_a_file else "tasks.jsonl")
    if not path.exists():
        raise ArtifactError(f"no such file: {path}", hint=AGAIN)
    rows = _rows(path) if info.many_in_a_file else read_jsonl(path)
    try:
        return {int(row["task_index"]): _instruction(row) for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: expected rows of task_index and task: {error!r}") from error


def _instruction(row: Row) -> str:
    # Version 3 stores the instruction as the index of a data frame, which may or may not have a name.
    words = row["task"] if "task" in row else row["__index_level_0__"]
    if not isinstance(words, str) or not words.strip():
        raise ValueError(f"the task is {words!r}")
    return words


def _one_a_file(root: Path, info: Info, videos: Sequence[str]) -> dict[int, Place]:
    path = root / "meta" / "episodes.jsonl"
    if not path.exists():
        raise ArtifactError(f"no such file: {path}", hint=AGAIN)

    def place(row: Row) -> Place:
        number, length = int(row["episode_index"]), int(row["length"])
        names = {"episode_index": number, "episode_chunk": number // info.chunks_size}
        beside = {key: (root / str(info.video_path).format(video_key=key, **names), 0.0) for key in videos}
        return Place(root / info.data_path.format(**names), 0, length, beside)

    return _placed([(f"{path}, line {number}", row) for number, row in enumerate(read_jsonl(path), start=1)], place)


def _many_in_a_file(root: Path, info: Info, videos: Sequence[str]) -> dict[int, Place]:
    files = sorted((root / "meta" / "episodes").rglob("*.parquet"))
    if not files:
        raise ArtifactError(f"no parquet file below {root / 'meta' / 'episodes'}", hint=AGAIN)
    rows = [(f"{file}, row {number}", row) for file in files for number, row in enumerate(_rows(file))]
    begin: dict[Path, int] = {}
    for where, row in rows:
        with _describing(where):
            file = _data_file(root, info, row)
            begin[file] = min(row["dataset_from_index"], begin.get(file, row["dataset_from_index"]))

    def place(row: Row) -> Place:
        file = _data_file(root, info, row)
        start, stop = row["dataset_from_index"] - begin[file], row["dataset_to_index"] - begin[file]
        return Place(file, start, stop, {key: _video(root, info, key, row) for key in videos})

    return _placed(rows, place)


def _data_file(root: Path, info: Info, row: Row) -> Path:
    return root / info.data_path.format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])


def _video(root: Path, info: Info, key: str, row: Row) -> tuple[Path, float]:
    column = f"videos/{key}/"
    names = {"chunk_index": row[f"{column}chunk_index"], "file_index": row[f"{column}file_index"]}
    return root / str(info.video_path).format(video_key=key, **names), float(row[f"{column}from_timestamp"])


def _placed(rows: Iterable[tuple[str, Row]], place: Callable[[Row], Place]) -> dict[int, Place]:
    """Episode number -> its place; each of ``rows`` comes with where it is, for error messages."""
    found: dict[int, Place] = {}
    for where, row in rows:
        with _describing(where):
            number, at = int(row["episode_index"]), place(row)
        if number in found:
            raise ArtifactError(f"{where}: expected each episode once, found episode {number} again", hint=AGAIN)
        if at.start >= at.stop:
            raise ArtifactError(
                f"{where}: expected an episode of at least 1 row, found {at.stop - at.start}", hint=AGAIN
            )
        found[number] = at
    return found


@contextmanager
def _describing(where: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{where}: does not describe an episode as {INFO} says: {type(error).__name__}: {error}", hint=AGAIN
        ) from error


def _rows(path: Path) -> list[dict[str, Any]]:
    """Without the statistics, which are most of such a file and are not used."""
    table = read_table(path)
    names = [name for name in table.column_names if not name.startswith("stats/")]
    rows: list[dict[str, Any]] = table.select(names).to_pylist()
    return rows
