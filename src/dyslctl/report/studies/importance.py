"""``dyslctl analyze importance`` (Fig. 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dyslctl.report.cells import interval, lost, number, percent
from dyslctl.report.tables import Column, Table

Document = Mapping[str, Any]
TEXT = "Success when one part of every episode is disturbed: every predicted chunk in it is shifted at random."


def tables(document: Document) -> list[Table]:
    """One row a part and noise."""
    columns = [Column("part of the episode", numeric=False), Column("gripper switches"), Column("speed")]
    columns += [Column("noise"), Column("success"), Column("95 % interval"), Column("lost, points")]
    columns += [Column("95 % interval"), Column("p (McNemar)")]
    about = {part["part"]: part for part in document["parts"]}
    rows = [
        (
            span(about[row["part"]]),
            number(about[row["part"]]["flips"], 2),
            number(about[row["part"]]["speed"], 2),
            f"{row['noise']:g}",
            percent(row["success_rate"]),
            interval((row["success_low"], row["success_high"])),
            *lost(row),
            f"{row['p_value']:.2g}",
        )
        for row in document["rows"]
    ]
    rate, ci95 = document["undisturbed"]["success_rate"], document["undisturbed"]["success_ci95"]
    notes = [
        f"{document['method']}, undisturbed: {percent(rate)} ({interval(ci95)}); "
        f"{document['episodes']} paired {document['split']} episodes; Wilson intervals, adjusted Wald for differences",
        "noise: standard deviation of a shift of the normalised actions, gripper included, one draw an inference",
        "parts are equal shares of the undisturbed episode; switches: inferences an episode that open or close the "
        "gripper; speed: of the translation, normalised",
    ]
    return [Table(f"Disturbed parts of an episode on {document['suite']}", columns, rows, notes)]


def span(part: Mapping[str, Any]) -> str:
    """Which part of the episode."""
    return f"{100 * part['start']:.0f}–{100 * part['stop']:.0f} %"
