from __future__ import annotations

from collections.abc import Callable

import pytest

from dyslctl.analysis.latency import breakdown
from dyslctl.errors import ConfigError
from dyslctl.jobs.breakdown import PassShares
from dyslctl.jobs.episodes import EpisodeRecord

SHARES = PassShares(layers=0.7, controllers=0.2, adapters=0.1)


def test_parts_by_hand_and_they_add_up(make_record: Callable[..., EpisodeRecord]) -> None:
    """Four inferences, one predicted again: five heads of 1 ms, four first passes of 10 ms, one second of 9 + 1."""
    parts = {"encode": 8.0, "llm": 49.0, "head": 5.0, "guidance": 2.0}
    record = make_record(0, inferences=4, layers_run=20, verifications=1, parts_ms=parts, reprediction_ms=10.0)
    found = breakdown("dysl-paper", [record], SHARES)
    expected = {"encode": 2.0, "layers": 7.0, "controllers": 2.0, "adapters": 1.0, "reprediction": 2.5, "head": 1.0}
    assert found.parts_ms == pytest.approx({**expected, "tokens": 0.0, "guidance": 0.5})
    assert found.total_ms == pytest.approx(sum(found.parts_ms.values())) == 16.0
    assert (found.inferences, found.layers, found.total_ms_ci95) == (4, 5.0, (16.0, 16.0))


def test_choosing_tokens_is_a_part_of_its_own(make_record: Callable[..., EpisodeRecord]) -> None:
    parts = {"encode": 2.0, "llm": 10.0, "head": 1.0, "guidance": 0.0}
    record = make_record(0, inferences=1, layers_run=8, parts_ms=parts)
    found = breakdown("fastv", [record], PassShares(layers=0.7, controllers=0.0, adapters=0.0, tokens=0.3))
    assert (found.parts_ms["layers"], found.parts_ms["tokens"]) == pytest.approx((7.0, 3.0))
    assert found.total_ms == pytest.approx(sum(found.parts_ms.values()))


def test_untimed_episodes_are_refused(make_record: Callable[..., EpisodeRecord]) -> None:
    with pytest.raises(ConfigError, match="timed episodes"):
        breakdown("full", [make_record(0, inferences=4)], SHARES)
