"""The chains: official, from a file, and drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dyslctl_calvin import sequences
from dyslctl_calvin.sequences import (
    FIXTURES,
    OFFICIAL,
    OFFICIAL_SHA256,
    Chain,
    canonical,
    digest,
    draw,
    draws,
    initial_states,
)
from dyslctl_calvin.tasks import TASKS
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.errors import ArtifactError, EnvironmentMismatch

FIRST = Chain(
    {
        **{"led": 1, "lightbulb": 1, "slider": "left", "drawer": "open", "red_block": "slider_left"},
        **{"blue_block": "table", "pink_block": "slider_right", "grasped": 0},
    },
    ("rotate_blue_block_right", "move_slider_right", "lift_red_block_slider", "place_in_slider", "turn_off_lightbulb"),
)
"""The official first."""


def test_the_initial_states() -> None:
    """2^4 lamps, door and drawer; of 3^3 places those with one or two blocks on the table and none shared: 6 + 6."""
    states = initial_states()
    assert len(states) == 192 == 2**4 * (6 + 6)
    assert len({tuple(state.values()) for state in states}) == 192
    assert all(tuple(state) == tuple(sequences.CONDITIONS) for state in states)


def test_five_names_are_drawn_as_the_official_code_draws_them() -> None:
    for seed in range(20):
        official = np.random.RandomState(seed).choice(list(TASKS), size=5, replace=False).tolist()
        ours = np.random.RandomState(seed).permutation(34)[:5]
        assert [list(TASKS)[i] for i in ours] == official


def test_the_first_chains_of_an_initial_state() -> None:
    found = draws(initial_states()[0], np.random.RandomState(0))
    assert [next(found).tasks for _ in range(2)] == FIRST_DRAWS


FIRST_DRAWS = [
    ("open_drawer", "turn_on_lightbulb", "move_slider_left", "rotate_red_block_left", "lift_red_block_table"),
    ("lift_red_block_table", "stack_block", "unstack_block", "open_drawer", "turn_on_led"),
]
"""Of initial state 0; made by the official code."""


@pytest.mark.slow
def test_the_official_chains_are_drawn_again() -> None:
    chains = sequences.generate()
    assert digest(chains) == OFFICIAL_SHA256
    assert chains[0] == FIRST


def test_only_what_follows() -> None:
    assert OFFICIAL.follows(FIRST.start, FIRST.tasks)
    for repertoire in (OFFICIAL, FIXTURES):
        assert not repertoire.follows(FIRST.start, ("open_drawer",))  # it is open
    both = ("turn_off_led", "turn_off_lightbulb")  # one category
    assert not OFFICIAL.follows(FIRST.start, both)
    assert FIXTURES.follows(FIRST.start, both)


@given(st.integers(10_000_000, 30_000_000))
def test_a_drawn_chain_follows_and_is_the_same_again(seed: int) -> None:
    chain = draw(seed)
    assert chain.start in initial_states() and OFFICIAL.follows(chain.start, chain.tasks) and len(chain.tasks) == 5
    assert draw(seed) == chain


def test_chains_of_fixtures() -> None:
    """As many as the official ones, from the same scenes as often; each of the eight tasks about as often."""
    chains = sequences.generate(FIXTURES)
    names = [name for chain in chains for name in chain.tasks]
    assert len(chains) == 1000 and len(FIXTURES.names) == 8 == len(set(names))
    assert {TASKS[name].category for name in names} == {"slider", "drawer", "light"}
    assert all(FIXTURES.follows(chain.start, chain.tasks) and len(set(chain.tasks)) == 5 for chain in chains)
    assert min(names.count(name) for name in FIXTURES.names) > 550
    begun = [initial_states().index(chain.start) for chain in chains]
    assert {begun.count(state) for state in range(192)} == {5, 6}
    assert set(draw(7, FIXTURES).tasks) < set(FIXTURES.names) and draw(7, FIXTURES) == draw(7, FIXTURES)


def test_chains_are_kept_and_a_damaged_file_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(sequences, "OFFICIAL_SHA256", digest([FIRST]))
    monkeypatch.setattr(sequences, "generate", lambda: calls.append(1) or [FIRST])
    folder = tmp_path / "cache"
    assert sequences.official(folder) == sequences.official(folder) == [FIRST]
    assert len(calls) == 1
    (kept,) = folder.iterdir()
    kept.write_text(kept.read_text().replace("turn_off_lightbulb", "turn_off_led"))
    assert sequences.official(folder) == [FIRST]
    assert len(calls) == 2


def test_a_numpy_that_draws_other_chains_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "generate", lambda: [FIRST])
    with pytest.raises(EnvironmentMismatch, match=r"draws other chains .* expected SHA-256 604957a8") as caught:
        sequences.official(tmp_path)
    assert caught.value.hint is not None and "DYSLCTL_CALVIN_SEQUENCES" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_read_whatever_the_order_of_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "chains.json"
    path.write_text(json.dumps([[dict(reversed(FIRST.start.items())), list(FIRST.tasks)]], indent=4))
    assert sequences.read(path) == [FIRST]
    assert list(sequences.read(path)[0].start) == list(sequences.CONDITIONS)  # the hash of the placement needs it
    assert canonical(sequences.read(path)) == canonical([FIRST])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "expected a list of chains"),
        ({}, "expected a list of chains"),
        ([["open_drawer"]], r"chain 0: expected \[scene, \[names\]\]"),
        ([[{"led": 0}, list(FIRST.tasks)]], "chain 0: expected the keys led, lightbulb"),
        ([[{**FIRST.start, "drawer": "ajar"}, list(FIRST.tasks)]], "chain 0: the scene is none of the 192"),
        ([[FIRST.start, list(FIRST.tasks)], [FIRST.start, ["fly"] * 5]], "chain 1: expected 5 task names"),
        ([[FIRST.start, list(FIRST.tasks[:4])]], "chain 0: expected 5 task names"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, rows: Any, message: str) -> None:
    path = tmp_path / "chains.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(ArtifactError, match=message):
        sequences.read(path)
    path.write_text("[[")
    with pytest.raises(ArtifactError, match="not valid JSON"):
        sequences.read(path)
