from __future__ import annotations

from collections.abc import Callable

import pytest

from dyslctl.analysis.success import success
from dyslctl.jobs.episodes import EpisodeRecord
from dyslctl.jobs.statistics import paired_difference, wilson


def test_success_against_a_baseline_by_hand(make_record: Callable[..., EpisodeRecord]) -> None:
    baseline = [make_record(index, index != 3) for index in range(4)]
    records = [make_record(index, index in (0, 3)) for index in range(4)]
    found = success(records, baseline)
    assert (found.episodes, found.successes, found.success_rate) == (4, 2, 0.5)
    assert (found.success_low, found.success_high) == wilson(2, 4)
    assert (found.wins, found.losses, found.difference) == (1, 2, -0.25)
    assert (found.difference_low, found.difference_high) == paired_difference(1, 2, 4)
    assert found.p_value == 1.0


def test_other_initial_states_are_no_baseline(make_record: Callable[..., EpisodeRecord]) -> None:
    with pytest.raises(ValueError, match="initial states of the baseline"):
        success([make_record(0)], [make_record(1)])
