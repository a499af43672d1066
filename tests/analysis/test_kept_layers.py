from __future__ import annotations

from collections.abc import Callable

import pytest

from dyslctl.analysis.kept_layers import kept_layers
from dyslctl.jobs.episodes import EpisodeRecord


def test_shares_and_quartiles_by_hand(make_record: Callable[..., EpisodeRecord]) -> None:
    records = [
        make_record(0, layers_by_inference=[3, 8, 3], llm_ms=[1.0, 8.0, 2.0]),
        make_record(1, layers_by_inference=[3], llm_ms=[3.0]),
    ]
    few, many = kept_layers("dysl", records)
    assert (few.layers, few.inferences, few.share) == (3, 3, 0.75)
    assert (few.llm_ms_p25, few.llm_ms_p50, few.llm_ms_p75) == (1.5, 2.0, 2.5)
    assert (many.layers, many.share, many.llm_ms_p50) == (8, 0.25, 8.0)


def test_untimed_episodes_are_refused(make_record: Callable[..., EpisodeRecord]) -> None:
    with pytest.raises(ValueError):
        kept_layers("dysl", [make_record(0, layers_by_inference=[3, 3])])
