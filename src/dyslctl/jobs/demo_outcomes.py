"""What is there of a data set while it is being recorded: how each initial state ended, and the solved episodes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dyslctl.artifacts.files import append_jsonl, make_folder, read_json, read_jsonl, write_json, write_jsonl
from dyslctl.artifacts.manifest import check_same
from dyslctl.data.episode_file import RecordedEpisode
from dyslctl.errors import ArtifactError, ConfigError, PluginError

MAX_EQUAL_ERRORS = 3
"""In a row, before something is wrong with more than a few initial states."""
RESTART = "without --resume recording starts anew"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Outcome:
    """How the expert did from one initial state.

    Attributes:
        steps: Of the episode, no-ops not counted; 0 if it was not solved.
        dropped: No-ops.
        error: Why nobody knows whether the expert would have solved it; ``None`` if it was played to its end.
    """

    index: int
    task: str
    solved: bool
    steps: int = 0
    dropped: int = 0
    error: str | None = None

    @property
    def failed(self) -> bool:
        """It was played to its end, in vain."""
        return not self.solved and self.error is None


class Outcomes:
    """A folder: ``manifest.json``, ``outcomes.jsonl`` with a line for each initial state, ``episodes/`` of the solved.

    Attributes:
        folder: Where it is.
        of: Index of the initial state -> how it ended.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], resume: bool) -> None:
        """Go on with the folder, or start it anew. States that ended in an error are played again.

        Raises:
            ArtifactError: If it is damaged, or its manifest is another one.
            ConfigError: If it is no recording.
            EnvironmentMismatch: If it cannot be written.
        """
        self.folder, self._path = folder, folder / "outcomes.jsonl"
        self.of: dict[int, Outcome] = {}
        self._errors: list[str | None] = []
        if resume and (folder / MANIFEST).exists():
            then = read_json(folder / MANIFEST)
            check_same(then, manifest, f"cannot resume {folder}: it is being recorded otherwise", RESTART)
            outcomes = map(self._outcome, read_jsonl(self._path))
            self.of = {outcome.index: outcome for outcome in outcomes if outcome.error is None}
        else:
            _remove(folder)
        make_folder(folder)
        write_json(folder / MANIFEST, manifest)
        write_jsonl(self._path, [asdict(outcome) for outcome in self.of.values()])

    @property
    def solved(self) -> Mapping[int, bool]:
        """Index of each initial state that was tried -> was it solved?"""
        return {index: outcome.solved for index, outcome in self.of.items()}

    def add(self, outcome: Outcome) -> None:
        """Keep ``outcome``; its episode, if there is one, has been written.

        Raises:
            PluginError: If it is an error, and the ones before were the same.
        """
        append_jsonl(self._path, asdict(outcome))
        self.of[outcome.index] = outcome
        self._errors = [*self._errors, outcome.error][-MAX_EQUAL_ERRORS:]
        if outcome.error is not None and self._errors == [outcome.error] * MAX_EQUAL_ERRORS:
            raise PluginError(
                f"{MAX_EQUAL_ERRORS} episodes in a row could not be played, the last one {outcome.index} "
                f"({outcome.task}): {outcome.error}",
                hint="a longer --episode-timeout, or fewer --workers if memory is short; --resume plays them again",
            )

    def episode(self, index: int) -> RecordedEpisode:
        """The solved episode from initial state ``index``.

        Raises:
            ArtifactError: If its file is missing or damaged.
        """
        return RecordedEpisode.load(self.file(self.folder, index))

    @staticmethod
    def file(folder: Path, index: int) -> Path:
        """Where that episode is."""
        return folder / "episodes" / f"{index:08d}.parquet"

    def _outcome(self, row: Mapping[str, Any]) -> Outcome:
        try:
            return Outcome(**row)
        except TypeError as error:
            raise ArtifactError(f"{self._path}: a line is not an outcome: {error}", hint=RESTART) from error


def _remove(folder: Path) -> None:
    """Remove a recording, but nothing else that happens to have its name."""
    if folder.is_dir() and not (folder / MANIFEST).exists() and any(folder.glob("[!.]*")):
        raise ConfigError(
            f"{folder}: expected an unfinished recording, found other files", hint="choose another --out, or move them"
        )
    shutil.rmtree(folder, ignore_errors=True)
