"""Success with its interval, and what it lost against other episodes from the same initial states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dyslctl.jobs.episodes import EpisodeRecord
from dyslctl.jobs.statistics import mcnemar, paired_difference, wilson
from dyslctl.jobs.summary import compare


@dataclass(frozen=True)
class Success:
    """Success of some episodes, and the difference to a baseline's, initial state by initial state.

    Attributes:
        episodes: ``n``.
        success_rate: Share of them solved, with its 95 % Wilson interval.
        wins: Initial states that only these solved.
        losses: Initial states that only the baseline solved.
        difference: Success less the baseline's, with its 95 % adjusted Wald interval for pairs.
        p_value: Exact McNemar test of wins against losses.
    """

    episodes: int
    successes: int
    success_rate: float
    success_low: float
    success_high: float
    wins: int
    losses: int
    difference: float
    difference_low: float
    difference_high: float
    p_value: float


def success(records: Sequence[EpisodeRecord], baseline: Sequence[EpisodeRecord]) -> Success:
    """Of finished episodes, and of the baseline's from the same initial states.

    Raises:
        ValueError: If there are none, or the two share no initial state.
    """
    pair, solved = compare(records, baseline), sum(record.success for record in records)
    pairs = pair.wins + pair.losses + pair.ties
    if not pairs:
        raise ValueError("expected episodes from the initial states of the baseline, found none")
    low, high = wilson(solved, len(records))
    return Success(
        len(records),
        solved,
        solved / len(records),
        low,
        high,
        pair.wins,
        pair.losses,
        (pair.wins - pair.losses) / pairs,
        *paired_difference(pair.wins, pair.losses, pairs),
        mcnemar(pair.wins, pair.losses),
    )
