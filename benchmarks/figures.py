"""What ``runtime.py`` fills its tables with: a figure, its target, and whether it was reached."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

_HOLDS = {">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True)
class Figure:
    """One row.

    Attributes:
        name: What is measured.
        shape: On what: width x layers x tokens, dtype.
        value: The figure; ``None`` if it was not measured.
        target: ``">= 0.97"``, or ``""`` where there is none.
        note: What it rests on, or why it was not measured.
    """

    name: str
    shape: str
    value: float | None
    target: str = ""
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the value meets the target; ``None`` without one of them."""
        if self.value is None or not self.target:
            return None
        sign, number = self.target.split()
        return bool(_HOLDS[sign](self.value, float(number)))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "reached": self.reached}


def markdown(figures: Sequence[Figure]) -> str:
    """A table, one line a figure."""
    verdict = {True: "yes", False: "no", None: ""}
    lines = ["| figure | shape | measured | target | reached | |", "| --- | --- | ---: | --- | --- | --- |"]
    for one in figures:
        value = "not measured" if one.value is None else f"{one.value:.3g}"
        cells = (one.name, one.shape, value, one.target, verdict[one.reached], one.note)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
