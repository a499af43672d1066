"""Where the time of one inference goes, in closed loop (Fig. 10).

Episodes say how long encoder, layers, head and guidance took, and how much of that was a second prediction. How a pass
divides into layers, controllers and adapters is measured apart (``jobs/breakdown.py``): reading the clock at every
layer costs time itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dyslctl.errors import ConfigError
from dyslctl.jobs.breakdown import TIMED, PassShares, divided
from dyslctl.jobs.episodes import EpisodeRecord
from dyslctl.jobs.statistics import crossed_bootstrap, percentile_interval


@dataclass(frozen=True)
class Breakdown:
    """The mean inference of one method.

    Attributes:
        parts_ms: Milliseconds of each part; they add up to ``total_ms``.
        total_ms: With its 95 % percentile-bootstrap interval over episodes.
        layers: Mean executed layers, re-predictions counted.
    """

    method: str
    episodes: int
    inferences: int
    parts_ms: dict[str, float]
    total_ms: float
    total_ms_ci95: tuple[float, float]
    layers: float


def breakdown(method: str, records: Sequence[EpisodeRecord], shares: PassShares) -> Breakdown:
    """Of timed episodes.

    Raises:
        ConfigError: If they were not timed.
    """
    if not all(record.parts_ms for record in records):
        raise ConfigError("expected timed episodes, found some that ran side by side", hint="--batch 1")
    inferences = sum(record.inferences for record in records)
    sums = np.array([[sum(record.parts_ms.values()), record.inferences] for record in records])
    draws = crossed_bootstrap(sums[None])
    return Breakdown(
        method,
        len(records),
        inferences,
        _parts(records, inferences, shares),
        float(sums[:, 0].sum() / inferences),
        percentile_interval(draws[:, 0] / draws[:, 1]),
        sum(record.layers_run for record in records) / inferences,
    )


def _parts(records: Sequence[EpisodeRecord], inferences: int, shares: PassShares) -> dict[str, float]:
    """:func:`divided`, of timed episodes."""
    sums = {part: sum(record.parts_ms.get(part, 0.0) for record in records) for part in TIMED}
    sums["reprediction"] = sum(record.reprediction_ms for record in records)
    verified = sum(record.verifications for record in records) / inferences
    return divided({part: value / inferences for part, value in sums.items()}, verified, shares)
