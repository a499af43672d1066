"""``dyslctl analyze pareto`` for people: two tables and a tidy CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from dyslctl.report.cells import interval, number, percent, points, points_interval
from dyslctl.report.tables import Column, Table

Document = Mapping[str, Any]
Row = Mapping[str, Any]
CSV_COLUMNS = (
    "suite", "split", "method", "label", "budget", "seed", "episodes", "success_rate", "success_low", "success_high",
    "mean_score", "layers_per_inference", "layers_per_episode", "inferences_per_episode", "verifications_per_episode",
    "dial", "target_layers", "tune_layers", "tune_episodes", "llm_ms_mean",
)  # fmt: skip


def tables(document: Document) -> list[Table]:
    """The curves, and the compared method against each rival."""
    return [_curves(document), *([_matched(document)] if document["matched"] else [])]


def csv_text(document: Document) -> str:
    """One row a point: those of each seed, and the pooled ones under the seed ``all``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for point in [*document["points"], *({**pooled, "seed": "all"} for pooled in document["pooled"])]:
        low, high = point["success_ci95"]
        tune = point.get("tune") or {}
        known = {**point, "suite": document["suite"], "split": document["split"]}
        known |= {"success_low": low, "success_high": high}
        known |= {"tune_layers": tune.get("layers"), "tune_episodes": tune.get("episodes")}
        writer.writerow({name: known.get(name) for name in CSV_COLUMNS})
    return text.getvalue()


def _curves(document: Document) -> Table:
    columns = [
        Column("method", numeric=False),
        Column("point", numeric=False),
        Column("success"),
        Column("95 % interval"),
        Column("layers/inference"),
        Column("layers/episode"),
        Column("inferences/episode"),
        Column("verified/episode"),
    ]
    if document["max_score"] > 1:
        columns.insert(4, Column(f"mean score of {document['max_score']}"))
    rows = [_curve_row(point, document["max_score"]) for point in document["pooled"]]
    seeds, tune = document["seeds"], document["tune_episodes"]
    notes = [
        f"{document['episodes']} {document['split']} episodes, the same for all points; training seeds {_list(seeds)}",
        f"dials found on {tune} {document['tune_split']} episodes; layers count re-predictions",
        document["intervals"],
    ]
    return Table(f"Success against layers on {document['suite']}", columns, rows, notes)


def _curve_row(point: Row, max_score: int) -> list[str]:
    score = [number(point["mean_score"], 2)] if max_score > 1 else []
    return [
        point["method"],
        point["label"],
        percent(point["success_rate"], 2),
        interval(point["success_ci95"]),
        *score,
        number(point["layers_per_inference"], 2),
        number(point["layers_per_episode"], 1),
        number(point["inferences_per_episode"], 1),
        number(point["verifications_per_episode"], 2),
    ]


def _matched(document: Document) -> Table:
    columns = [
        Column("point", numeric=False),
        Column("against", numeric=False),
        Column("at equal layers, points"),
        Column("95 % interval"),
        Column("nearest", numeric=False),
        Column("its layers more by"),
        Column("difference, points"),
        Column("won"),
        Column("lost"),
        Column("p"),
    ]
    rows = [_matched_row(pair) for pair in document["matched"]]
    notes = [
        "at equal layers: the rival is read off its own curve, between its two neighbouring points",
        "won, lost: initial states solved with more, with fewer training seeds; p: exact sign test of the two "
        "(McNemar's with one seed)",
        f"n = {document['episodes']} {document['split']} episodes, training seeds {_list(document['seeds'])}",
    ]
    return Table(f"{document['compared']} against the others at matched layers", columns, rows, notes)


def _matched_row(pair: Row) -> list[str]:
    between, nearest = pair["interpolated"], pair["nearest"]
    return [
        f"{pair['method']} {pair['label']}",
        pair["rival"],
        points(between["difference"]) if between else number(None),
        points_interval(between["difference_ci95"]) if between else number(None),
        nearest["rival_label"],
        f"{-nearest['delta_layers']:+.2f}",
        points(nearest["difference"]),
        str(nearest["wins"]),
        str(nearest["losses"]),
        f"{nearest['p_value']:.2g}",
    ]


def _list(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
