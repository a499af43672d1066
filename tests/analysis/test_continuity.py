from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.analysis.continuity import Gate, Probe, auc, borders, ranges, rankings
from dyslctl.errors import ConfigError
from dyslctl.jobs.episodes import EpisodeRecord
from dyslctl.policy import full_policy

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach

Play = Callable[..., list[list[tuple[Any, Any]]]]
EVERYWHERE, NOWHERE = Gate(-math.inf, math.inf), Gate(math.inf, math.inf)


def acted(episodes: list[list[tuple[Any, Any]]]) -> list[list[list[float]]]:
    return [[chunk.actions.tolist() for chunk, _ in steps] for steps in episodes]


def test_auc_by_hand() -> None:
    positive = np.array([False, True, False, True])
    assert auc(np.array([0.0, 1.0, 0.5, 2.0]), positive) == 1.0
    assert auc(np.array([1.0, 1.0, 1.0, 1.0]), positive) == 0.5
    assert auc(np.array([0.0, 1.0, 2.0, 3.0]), positive) == 0.75


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=20))
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    ups, downs = [value for value, hit in rows if hit], [value for value, hit in rows if not hit]
    if ups and downs:
        pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in product(ups, downs)]
        values, hits = np.array([value for value, _ in rows]), np.array([hit for _, hit in rows])
        assert auc(values, hits) == pytest.approx(sum(pairs) / len(pairs))


def test_a_gate_opens_in_its_range_only() -> None:
    gate = Gate(-0.5, -0.1)
    known = (-0.6, -0.5, -0.2, -0.1)
    assert [gate.opens({"continuity": value}) for value in known] == [False, True, True, False]
    assert not EVERYWHERE.opens({}), "continuity is undefined at first"


@pytest.mark.parametrize("memory", [False, True])
def test_a_closed_gate_is_the_full_model_and_so_is_the_probe(
    tiny_backbone: type[TinyBackbone], suite: TinyReach, leave: Callable[..., Any], play: Play, memory: bool
) -> None:
    backbone, specs = tiny_backbone(memory=memory), suite.episodes("test", 2)
    full = acted(play(full_policy(backbone, 2), suite, specs))
    assert acted(play(NOWHERE(leave(backbone, 2)), suite, specs)) == full
    probed = play(Probe(1)(leave(backbone, 2)), suite, specs)
    assert acted(probed) == full
    for _, report in probed[0]:
        assert report.layers == tuple(range(8)) and report.noted["skipped_layers"] == 2
        assert report.noted["damage"] > 0
    assert "continuity" not in probed[0][0][1].noted and "delta" in probed[0][-1][1].noted


def test_an_open_gate_skips_once_continuity_is_known(
    backbone: TinyBackbone, suite: TinyReach, leave: Callable[..., Any], play: Play
) -> None:
    (steps,) = play(EVERYWHERE(leave(backbone, 2)), suite, suite.episodes("test", 1))
    layers = [report.layers_run for _, report in steps]
    assert layers[:3] == [8, 8, 8] and set(layers[3:]) == {2}, "six actions make the first C, two are executed at once"
    assert [report.noted["open"] for _, report in steps] == [float(ran == 2) for ran in layers]


def test_borders_by_hand(make_record: Callable[..., EpisodeRecord]) -> None:
    notes = [{}, *({"continuity": value} for value in np.linspace(-1, 0, 101))]
    found = borders([make_record(noted=notes)], 2)
    assert found == [-math.inf, pytest.approx(-0.49), math.inf]
    with pytest.raises(ConfigError, match="more than 5 actions"):
        borders([make_record(noted=[{}])], 2)


def test_ranges_by_hand(make_record: Callable[..., EpisodeRecord]) -> None:
    notes = [{"damage": 9.0}, {"continuity": -1.0, "damage": 3.0}, {"continuity": 0.0, "damage": 1.0}]
    probed = [make_record(index, noted=notes) for index in range(2)]
    low, high = Gate(-math.inf, -0.5), Gate(-0.5, math.inf)
    opened = [make_record(index, index == 0, noted=[{"open": 1.0}, {"open": 1.0}, {"open": 0.0}]) for index in range(2)]
    one, other = ranges(probed, {low: opened, high: [make_record(index, noted=[{"open": 0.0}]) for index in range(2)]})
    assert (one.inferences, one.share, one.skipped, one.damage) == (2, 0.5, 2.0, 3.0)
    assert (one.damage_low, one.damage_high) == (3.0, 3.0), "both episodes are alike"
    assert (one.success.losses, other.success.losses, other.damage, other.skipped) == (1, 0, 1.0, 0.0)


def test_rankings_by_hand(make_record: Callable[..., EpisodeRecord]) -> None:
    """``delta C`` falls where damage is; speed says the opposite; what is unknown somewhere is left out."""
    rows = [
        {"damage": float(at == 3), "delta": -float(at == 3), "after_delta": 0.0, "speed": float(at == 3)}
        for at in range(10)
    ]
    rows[0]["fine"] = 1.0
    records = [make_record(index, noted=[{"damage": 99.0}, *rows]) for index in range(4)]
    found = {row.signal: row for row in rankings(records, 0.1)}
    assert set(found) == {"delta", "delta after", "speed"}
    assert (found["delta"].inferences, found["delta"].damaged) == (40, 4)
    assert (found["delta"].auc, found["delta after"].auc, found["speed"].auc) == (1.0, 0.5, 0.0)
    assert (found["speed"].over_delta, found["speed"].over_delta_low, found["delta"].over_delta) == (-1.0, -1.0, 0.0)
    with pytest.raises(ConfigError, match="known delta C"):
        rankings([make_record(noted=[{"damage": 1.0}])], 0.1)
