from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.data.source import DemonstrationSource, near_flips, shuffled
from dyslctl.errors import ConfigError
from dyslctl.suite import Demonstration, EpisodeSpec
from dyslctl.types import Observation


class Numbered(DemonstrationSource):
    """Episodes of ``lengths`` steps; actions and proprio say which episode and step they are from."""

    name = "numbered"

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.lengths)

    def episode(self, number: int) -> Demonstration:
        self.read.append(number)
        steps = np.arange(self.lengths[number], dtype=np.float32)
        gripper = np.where(steps < 5, -1.0, 1.0).astype(np.float32)
        observations = [Observation({}, f"task {number}", np.array([number, step], np.float32)) for step in steps]
        spec = EpisodeSpec(self.name, "train", number, "", number)
        return Demonstration(spec, observations, np.stack([steps, gripper], 1))


@given(st.integers(2, 60))
def test_no_episode_is_both_learnt_from_and_held_out(count: int) -> None:
    source = Numbered([3] * count)
    train, tune = source.numbers("train"), source.numbers("tune")
    assert sorted(train + tune) == list(range(count)) and tune
    assert len(tune) == max(1, count // 10)


def test_which_episodes_are_held_out() -> None:
    assert Numbered([3] * 4).numbers("tune") == [3]
    assert Numbered([3] * 25).numbers("tune") == [9, 18]


def test_where_ten_tasks_take_turns_all_are_in_both_parts() -> None:
    source = Numbered([3] * 200)
    assert sorted(number % 10 for number in source.numbers("tune")) == sorted(2 * list(range(10)))
    assert {number % 10 for number in source.numbers("train")} == set(range(10))


def test_one_episode_leaves_none_to_hold_out() -> None:
    with pytest.raises(ConfigError, match="expected at least 2 episodes, one to hold out, found 1"):
        Numbered([3]).numbers("train")


@given(st.lists(st.integers(), max_size=40), st.integers(1, 50), st.integers(0, 5))
def test_a_shuffle_loses_nothing(items: list[int], size: int, seed: int) -> None:
    assert Counter(shuffled(items, size, seed)) == Counter(items)
    assert list(shuffled(items, size, seed)) == list(shuffled(items, size, seed))


@given(st.integers(1, 20), st.integers(0, 5))
def test_nothing_comes_earlier_than_the_buffer_allows(size: int, seed: int) -> None:
    """The item drawn at ``t`` is among the first ``t + size``: no more than ``size`` wait at a time."""
    assert all(item <= place + size for place, item in enumerate(shuffled(range(60), size, seed)))


def test_the_seed_decides_the_order() -> None:
    assert list(shuffled(range(50), 10, 0)) != list(shuffled(range(50), 10, 1)) != list(range(50))
    with pytest.raises(ConfigError, match="at least 1 item, found 0"):
        shuffled([], 0, 0)


def test_samples_are_frames_with_the_actions_that_follow() -> None:
    source = Numbered([7] * 5)
    samples = list(source.samples(4, seed=3, buffer=8))
    assert len(samples) == 4 * 7 and {sample.episode for sample in samples} == {0, 1, 2, 3}
    assert [sample.episode for sample in samples] != sorted(sample.episode for sample in samples)
    for sample in samples:
        assert sample.observation.proprio is not None
        episode, step = sample.observation.proprio.tolist()
        assert episode == sample.episode
        assert sample.actions[:, 0].tolist() == [min(step + ahead, 6) for ahead in range(4)]


def test_samples_are_read_as_they_are_asked_for() -> None:
    """A buffer of 6 frames is full after one episode of 7: the others are still on the disk."""
    source = Numbered([7] * 9)
    stream = source.samples(4, buffer=6)
    assert source.read == []
    next(stream)
    assert len(source.read) == 1


def test_at_most_so_many_of_each_episode() -> None:
    samples = list(Numbered([7, 2, 7, 7]).samples(4, per_episode=3, seed=1))
    assert Counter(sample.episode for sample in samples) == {0: 3, 1: 2, 2: 3}


def test_equal_seeds_give_equal_streams() -> None:
    def drawn(seed: int) -> list[tuple[int, float]]:
        return [
            (sample.episode, float(sample.actions[0, 0]))
            for sample in Numbered([7] * 4).samples(4, seed=seed, buffer=5)
        ]

    assert drawn(1) == drawn(1) != drawn(2)


def test_flips_of_the_gripper_are_marked() -> None:
    """It closes at step 5: steps 3 to 7 are within 2 of it."""
    steps = list(range(9))
    actions = np.stack([np.zeros(9), np.where(np.arange(9) < 5, -1.0, 1.0)], 1)
    assert np.flatnonzero(near_flips(actions, steps, 1, 2)).tolist() == [3, 4, 5, 6, 7]
    assert not near_flips(actions, steps, None, 2).any()
    marked = {float(sample.actions[0, 0]) for sample in Numbered([9, 9]).samples(2, gripper_dim=1) if sample.near_flip}
    assert marked == {3.0, 4.0, 5.0, 6.0, 7.0}


def test_the_width_of_actions_is_that_of_the_first_episode() -> None:
    assert Numbered([3, 3]).action_dim == 2


class Chained(Numbered):
    """The first four steps of an episode have one instruction, the others another."""

    def episode(self, number: int) -> Demonstration:
        found = super().episode(number)
        words = ["first"] * 4 + ["second"] * (len(found.observations) - 4)
        seen = [replace(each, instruction=word) for each, word in zip(found.observations, words, strict=True)]
        return replace(found, observations=seen)


@given(st.integers(1, 6), st.integers(0, 3))
def test_windows_are_all_consecutive_frames_of_one_instruction(length: int, seed: int) -> None:
    """By hand, of 7 steps 4 + 3: length 3 begins at 0, 1 and at 4; length 5 nowhere."""
    found = list(Chained([7] * 5).windows(length, seed=seed, buffer=4))
    starts = {1: [0, 1, 2, 3, 4, 5, 6], 2: [0, 1, 2, 4, 5], 3: [0, 1, 4], 4: [0]}.get(length, [])
    assert sorted((window.episode, window.actions[0, 0]) for window in found) == [
        (number, start) for number in range(4) for start in starts
    ]
    for window in found:
        assert window.actions[:, 0].tolist() == [window.actions[0, 0] + ahead for ahead in range(length)]
        assert [each.proprio.tolist()[1] for each in window.observations if each.proprio is not None] == (
            window.actions[:, 0].tolist()
        )


def test_windows_of_the_held_out_part_and_so_many_of_each() -> None:
    assert {window.episode for window in Chained([7] * 5).windows(2, part="tune")} == {4}
    assert Counter(window.episode for window in Chained([7] * 5).windows(2, per_episode=2)) == dict.fromkeys(
        range(4), 2
    )
    with pytest.raises(ConfigError, match="at least 1 frame, found 0"):
        Chained([7] * 5).windows(0)
