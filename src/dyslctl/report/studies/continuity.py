"""``dyslctl analyze continuity`` (Fig. 6, and whose signal tells best)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dyslctl.report.cells import MISSING, interval, lost, number, percent
from dyslctl.report.tables import Column, Table

Document = Mapping[str, Any]
Row = Mapping[str, Any]
TEXT = (
    "What skipping costs where the last actions went on smoothly and where they did not, and which signal tells best "
    "where it does damage."
)


def tables(document: Document) -> list[Table]:
    """The ranges of continuity, and the signals."""
    return [_ranges(document), _rankings(document)]


def span(row: Row) -> str:
    """The range of ``C``."""
    low, high = row["low"], row["high"]
    if low is None or high is None:
        return "all" if low == high else (f"< {high:.2f}" if low is None else f"≥ {low:.2f}")
    return f"{low:.2f} to {high:.2f}"


def _ranges(document: Document) -> Table:
    columns = [Column("C before", numeric=False), Column("share"), Column("damage"), Column("95 % interval")]
    columns += [Column("skips an episode"), Column("success"), Column("lost, points"), Column("95 % interval")]
    columns += [Column("p (McNemar)")]
    rows = [
        (
            span(row),
            percent(row["share"]),
            percent(row["damage"]),
            MISSING if row["damage"] is None else interval((row["damage_low"], row["damage_high"])),
            number(row["skipped"], 2),
            percent(row["success_rate"]),
            *lost(row),
            f"{row['p_value']:.2g}",
        )
        for row in [*document["rows"], document["everywhere"]]
    ]
    rate, ci95 = document["full"]["success_rate"], document["full"]["success_ci95"]
    notes = [
        f"full model: {percent(rate)} ({interval(ci95)}); {document['episodes']} paired {document['split']} episodes",
        f"skipping: {document['method']} at its most willing (dial {document['dial']:g}), "
        f"{number(document['skipped_layers'], 1)} of {document['num_layers']} layers run",
        "damage: distance to the full model's actions, as a share of their motion; bootstrapped over episodes",
        f"continuity over k = {document['k']} actions (Eq. 1), gripper counted",
    ]
    return Table(f"Skipping by continuity on {document['suite']}", columns, rows, notes)


def _rankings(document: Document) -> Table:
    columns = [Column("signal", numeric=False), Column("AUC"), Column("95 % interval"), Column("over delta C")]
    columns += [Column("95 % interval")]
    rows = [
        (
            row["name"],
            number(row["auc"], 3),
            f"{row['auc_low']:.3f}–{row['auc_high']:.3f}",
            f"{row['over_delta']:+.3f}",
            f"{row['over_delta_low']:+.3f} to {row['over_delta_high']:+.3f}",
        )
        for row in sorted(document["signals"], key=lambda row: -float(row["auc"]))
    ]
    first = document["signals"][0]
    notes = [
        f"{first['damaged']} of {first['inferences']} inferences are the damaged ones; 0.5 is guessing",
        "intervals bootstrapped over episodes",
    ]
    return Table("Which signal tells where skipping does damage", columns, rows, notes)
