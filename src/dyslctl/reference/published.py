"""Reader of ``published.yaml``: tables as printed, and the rows that stand beside our own: latency, success."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

from dyslctl.artifacts.strict_yaml import parse_yaml

Value = float | None
Scope = Literal["llm", "end_to_end"]


@dataclass(frozen=True)
class Table:
    """A table of a paper, as printed.

    Attributes:
        rows: Row name -> one value a column; ``None`` where the paper reports none.
        flags: Row name -> why the paper contradicts itself there.
    """

    paper: str
    name: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Value, ...]]
    flags: Mapping[str, str]

    def column(self, name: str) -> dict[str, Value]:
        """Row name -> value in the column ``name``."""
        index = self.columns.index(name)
        return {row: values[index] for row, values in self.rows.items()}


@dataclass(frozen=True)
class PublishedLatency:
    """One printed latency. Scopes never mix: a paper times either the LLM or the whole inference.

    Attributes:
        method: Method name of this toolkit.
        llm_ms: Latency of the LLM part, ms; ``None`` if the paper timed something else.
        end_to_end_ms: Latency of the whole inference, ms; ``None`` likewise.
        speedup: Over the full model of the same table, same scope.
        citation: Where it is printed.
        flag: Why not to trust the row, or ``None``.
    """

    method: str
    llm_ms: Value
    end_to_end_ms: Value
    speedup: float
    citation: str
    flag: str | None


@dataclass(frozen=True)
class PublishedSuccess:
    """One printed row of success rates.

    Attributes:
        method: Method name of this toolkit; the paper's own where there is none.
        rates: Suite -> share of episodes solved.
        citation: Where it is printed.
        flag: Why not to trust the row, or ``None``.
    """

    method: str
    rates: Mapping[str, float]
    citation: str
    flag: str | None


@dataclass(frozen=True)
class _Column:
    """Where latencies are printed; ``methods`` maps its rows to our method names."""

    paper: str
    table: str
    column: str
    scope: Scope
    citation: str
    methods: Mapping[str, str]


_DYSL, _SPECPRUNE = "DySL-VLA, arXiv 2602.22896, Table", "SpecPrune-VLA, arXiv 2509.05614, Table"
_BASELINES = {"RandomSkip": "random-skip", "FlexiDepth": "flexidepth"}
_OFT = {"OpenVLA_OFT_7B": "full", "DySL7B": "dysl-paper", "DeeR7B": "deer", **_BASELINES}
_ROBOFLAMINGO = {"RoboFlamingo3B": "full", "DySL3B": "dysl-paper", "DeeR3B": "deer", **_BASELINES}
_PRUNING = {
    "OpenVLA_OFT": "full",
    "FastV": "fastv",
    "DivPrune": "divprune",
    "SpecPrune_a0.8": "specprune",
    "SpecPrune": "specprune",
    "SparseVLM": "sparsevlm",
    "VLA_Cache": "vla-cache",
    "EfficientVLA": "efficientvla",
}
_COLUMNS: Mapping[tuple[str, str], _Column] = {
    ("orin", "openvla-oft"): _Column("dysl", "libero", "orin_ms", "llm", f"{_DYSL} 3", _OFT),
    ("a6000", "openvla-oft"): _Column("dysl", "libero", "a6000_ms", "llm", f"{_DYSL} 3", _OFT),
    ("rtx4090", "roboflamingo"): _Column("dysl", "calvin_D_D", "latency_ms", "llm", f"{_DYSL} 2", _ROBOFLAMINGO),
    ("rtx4090", "openvla-oft"): _Column(
        "specprune", "real_world", "latency_ms", "end_to_end", f"{_SPECPRUNE} 2 (real robot)", _PRUNING
    ),
    ("a800", "openvla-oft"): _Column("specprune", "latency_a800_ms", "avg", "end_to_end", f"{_SPECPRUNE} 10", _PRUNING),
}


_LIBERO = {"libero_spatial": "spatial", "libero_object": "object", "libero_goal": "goal", "libero_10": "long"}
"""Suite plugin -> column of the papers' LIBERO tables, which are all of OpenVLA-OFT."""
_SUCCESS = {("dysl", "libero"): (f"{_DYSL} 3", _OFT), ("specprune", "libero_a800"): (f"{_SPECPRUNE} 1", _PRUNING)}


@dataclass(frozen=True)
class Published:
    """The whole file: ``raw`` as parsed, tables typed."""

    raw: Mapping[str, Any]
    flags: Mapping[tuple[str, ...], str]

    def table(self, paper: str, name: str) -> Table:
        """The table ``name`` of ``paper``; only entries with named columns are tables.

        Raises:
            KeyError: If there is no such table.
        """
        entry: Mapping[str, Any] = self.raw[paper][name]
        rows = {str(row): tuple(values) for row, values in entry.items() if row != "columns"}
        flags = {row: self.flags[paper, name, row] for row in rows if (paper, name, row) in self.flags}
        return Table(paper, name, tuple(entry["columns"]), rows, flags)

    def tables(self) -> Iterator[Table]:
        """Every table of both papers."""
        for paper in self.raw["sources"]:
            for name, entry in self.raw[paper].items():
                if isinstance(entry, dict) and "columns" in entry:
                    yield self.table(paper, name)


@cache
def load_published() -> Published:
    """The shipped reference numbers."""
    text = files("dyslctl.reference").joinpath("published.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    # A flag is a comment behind a row, so that the file stays readable as the papers' tables.
    comments = {path: lines[line].partition("# flag:")[2].strip() for path, line in _keys(yaml.compose(text))}
    flags = {path: comment for path, comment in comments.items() if comment}
    return Published(parse_yaml(text, "published.yaml"), flags)


def published_latency(device: str, backbone: str) -> list[PublishedLatency]:
    """The papers' latencies of ``backbone`` (a plugin name) on ``device``; empty if they print none."""
    where = _COLUMNS.get((device, backbone))
    if where is None:
        return []
    table = load_published().table(where.paper, where.table)
    printed = {row: ms for row, ms in table.column(where.column).items() if row in where.methods and ms is not None}
    full = next(ms for row, ms in printed.items() if where.methods[row] == "full")
    return [
        PublishedLatency(
            method=where.methods[row],
            llm_ms=ms if where.scope == "llm" else None,
            end_to_end_ms=ms if where.scope == "end_to_end" else None,
            speedup=full / ms,
            citation=f"{where.citation}, {row}",
            flag=table.flags.get(row),
        )
        for row, ms in printed.items()
    ]


def published_devices(backbone: str) -> list[str]:
    """The devices that the papers time the LLM of ``backbone`` (a plugin name) on."""
    return [device for (device, of), where in _COLUMNS.items() if of == backbone and where.scope == "llm"]


def published_success(suites: Sequence[str], backbone: str) -> list[PublishedSuccess]:
    """The papers' success rates of ``backbone`` (a plugin name) on ``suites``; empty if they print none."""
    columns = {suite: _LIBERO[suite] for suite in suites if suite in _LIBERO and backbone == "openvla-oft"}
    rows = []
    for (paper, name), (citation, names) in _SUCCESS.items() if columns else ():
        table = load_published().table(paper, name)
        printed = {suite: table.column(column) for suite, column in columns.items()}
        for row in table.rows:
            rates = {
                suite: round(rate / 100, 6) for suite, found in printed.items() if (rate := found[row]) is not None
            }
            flag = table.flags.get(row)
            rows.append(PublishedSuccess(names.get(row, row), rates, f"{citation}, {row}", flag))
    return rows


def _keys(node: yaml.Node | None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Path and line of every mapping key below ``node``."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        here = (*path, str(key.value))
        yield here, key.start_mark.line
        yield from _keys(value, here)
