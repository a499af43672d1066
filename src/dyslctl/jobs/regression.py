"""Has a change made it slower? A ``bench`` document beside an earlier one: ``--baseline FILE --max-regress 5%``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dyslctl.artifacts.files import read_json
from dyslctl.artifacts.manifest import check_same
from dyslctl.errors import ArtifactError, ConfigError, ThresholdNotMet

FIGURES = ("llm_ms_p50", "llm_ms_mean", "end_to_end_ms_p50")
"""Milliseconds, fewer are better. The mean, because skipping has several typical times between which a median jumps."""
CIRCUMSTANCES = (
    "device",
    "machine",
    "backbone",
    "backend",
    "workload",
    "source",
    "num_layers",
    "tokens",
    "dtype",
    "threads",
    "power_mode",
)
"""What must be the same for milliseconds to compare. Weights may differ: a better bundle is a change like any other."""


@dataclass(frozen=True)
class Change:
    """One figure of one method, then and now, ms."""

    method: str
    figure: str
    then: float
    now: float

    @property
    def share(self) -> float:
        """By how much it grew, of what it was; below zero if it shrank."""
        return self.now / self.then - 1

    def as_dict(self) -> dict[str, Any]:
        """The keys of the JSON document."""
        return {**asdict(self), "change": self.share}

    def __str__(self) -> str:
        return f"{self.method}.{self.figure}: {self.then:.3g} ms then, {self.now:.3g} ms now ({self.share:+.1%})"


def parse_percent(text: str) -> float:
    """``"5%"`` -> 0.05.

    Raises:
        ConfigError: If it is not a finite number of percent, at least 0.
    """
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = math.nan
    if not (text.endswith("%") and math.isfinite(share) and share >= 0):
        raise ConfigError(f"--max-regress: expected a percentage such as 5%, found {text!r}")
    return share


def read_baseline(path: Path) -> dict[str, Any]:
    """What ``bench --json`` printed, or the ``result.json`` that it left in the run.

    Raises:
        ArtifactError: If it cannot be read, or is no document of ``bench``.
    """
    hint = "dyslctl bench --json > FILE writes one; a run keeps its last in bench/DEVICE/result.json"
    document = read_json(path, hint)
    if document.get("schema") != "dyslctl.bench/1" or not isinstance(document.get("rows"), list):
        found = document.get("schema")
        raise ArtifactError(f"{path}: expected a document of dyslctl.bench/1 with rows, found {found!r}", hint)
    for number, row in enumerate(document["rows"]):
        if not _is_row(row):
            raise ArtifactError(f"{path}: rows[{number}]: expected method, source and positive milliseconds", hint)
    return document


def changes(baseline: Mapping[str, Any], document: Mapping[str, Any]) -> list[Change]:
    """Every figure that both have, method by method, in the order of ``document``.

    Raises:
        ArtifactError: If they were measured under other circumstances, or have no method in common.
    """
    then, now = map(_circumstances, (baseline, document))
    check_same(then, now, "--baseline: it was measured under other circumstances", "measure it here and now, once more")
    old, new = _own_rows(baseline), _own_rows(document)
    shared = [name for name in new if name in old]
    if not shared:
        known = f"then {', '.join(old) or 'none'}, now {', '.join(new) or 'none'}"
        raise ArtifactError(f"--baseline: expected a method that both measured, found {known}", "name it with --method")
    return [change for name in shared for change in _of(name, old[name], new[name])]


def check_regression(found: Sequence[Change], limit: float) -> None:
    """Fail if any figure grew by more than ``limit``, a share.

    Raises:
        ThresholdNotMet: If so; lists all that did.
    """
    slower = [f"  {change}" for change in found if change.share > limit]
    if slower:
        raise ThresholdNotMet("\n".join([f"slower than the baseline by more than {100 * limit:g}%:", *slower]))


def _circumstances(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document of before there were backends was ``eager``."""
    found = {"backend": "eager", **document}
    return {key: found.get(key) for key in CIRCUMSTANCES}


def _is_row(row: Any) -> bool:
    if not isinstance(row, Mapping) or not all(isinstance(row.get(key), str) for key in ("method", "source")):
        return False
    figures = [row[key] for key in FIGURES if row.get(key) is not None]
    return all(isinstance(ms, int | float) and 0 < ms < math.inf for ms in figures)


def _own_rows(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {row["method"]: row for row in document["rows"] if row["source"] != "published"}


def _of(method: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    for figure in FIGURES:
        if then.get(figure) is not None and now.get(figure) is not None:
            yield Change(method, figure, then[figure], now[figure])
