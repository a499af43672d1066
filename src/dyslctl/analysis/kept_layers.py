"""How many layers an inference keeps, and what each number of them takes (Fig. 4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dyslctl.jobs.episodes import EpisodeRecord


@dataclass(frozen=True)
class Kept:
    """The inferences of one method that ran so many layers.

    Attributes:
        layers: Executed, those of a second prediction counted.
        inferences: How many.
        share: Of all inferences of the method.
        llm_ms_p25: Quartiles of the time in the decoder layers, with all that decides about them; milliseconds.
    """

    method: str
    layers: int
    inferences: int
    share: float
    llm_ms_p25: float
    llm_ms_p50: float
    llm_ms_p75: float


def kept_layers(method: str, records: Sequence[EpisodeRecord]) -> list[Kept]:
    """One row for each number of layers that some inference of ``method`` ran, ascending; of timed episodes.

    Raises:
        ValueError: If an episode was not timed.
    """
    took = defaultdict[int, list[float]](list)
    for record in records:
        for layers, ms in zip(record.layers_by_inference, record.llm_ms, strict=True):
            took[layers].append(ms)
    total = sum(map(len, took.values()))
    return [
        Kept(method, layers, len(took[layers]), len(took[layers]) / total, *_quartiles(took[layers]))
        for layers in sorted(took)
    ]


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(low), float(middle), float(high)
