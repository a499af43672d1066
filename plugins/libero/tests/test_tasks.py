"""Which initial state an episode begins from."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from dyslctl_libero import tasks
from dyslctl_libero.tasks import MAX_STEPS, TASKS, SuiteName
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.errors import ConfigError
from dyslctl.suite import EpisodeSpec, Split

suites = st.sampled_from(get_args(SuiteName))


def test_forty_tasks_in_four_suites() -> None:
    assert list(TASKS) == list(get_args(SuiteName)) == list(MAX_STEPS)
    assert [len(set(names)) for names in TASKS.values()] == [10, 10, 10, 10]


def test_most_tasks_are_demonstrated() -> None:
    assert {task for names in TASKS.values() for task in names} >= tasks.WITHOUT_SKILL
    skilled = {suite: sum(task not in tasks.WITHOUT_SKILL for task in names) for suite, names in TASKS.items()}
    assert skilled == {"libero_spatial": 10, "libero_object": 10, "libero_goal": 6, "libero_10": 6}


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("put_the_bowl_on_the_stove", "put the bowl on the stove"),
        ("KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it", "turn on the stove and put the moka pot on it"),
        ("KITCHEN_SCENE10_close_the_top_drawer", "close the top drawer"),
    ],
)
def test_the_instruction_is_the_task_in_words(task: str, words: str) -> None:
    assert tasks.instruction(task) == words


def test_test_episodes_are_the_official_trials_tasks_in_turn() -> None:
    names = TASKS["libero_goal"]
    assert tasks.episode("libero_goal", "test", 0) == EpisodeSpec("libero_goal", "test", 0, names[0], 0)
    assert tasks.episode("libero_goal", "test", 9) == EpisodeSpec("libero_goal", "test", 9, names[9], 0)
    assert tasks.episode("libero_goal", "test", 10) == EpisodeSpec("libero_goal", "test", 10, names[0], 1)
    assert tasks.episode("libero_goal", "test", 499) == EpisodeSpec("libero_goal", "test", 499, names[9], 49)


@pytest.mark.parametrize(("split", "index"), [("test", 500), ("test", -1), ("train", 10_000_000), ("tune", -1)])
def test_an_episode_that_is_not_there_is_refused(split: Split, index: int) -> None:
    with pytest.raises(ConfigError, match=f"split '{split}' has episodes 0 to"):
        tasks.episode("libero_10", split, index)


@given(suites, st.integers(0, 9_999_999), st.integers(0, 9_999_999), st.integers(0, 499))
def test_no_seed_is_in_two_splits(suite: SuiteName, train: int, tune: int, test: int) -> None:
    indices: dict[Split, int] = {"train": train, "tune": tune, "test": test}
    specs = [tasks.episode(suite, split, index) for split, index in indices.items()]
    assert len({spec.seed for spec in specs}) == 3
    assert [spec.task for spec in specs] == [TASKS[suite][index % 10] for index in indices.values()]
    assert max(spec.seed for spec in specs) < 2**32  # NumPy's generator takes no more


def test_only_its_own_episodes_are_played() -> None:
    spec = tasks.episode("libero_object", "tune", 7)
    tasks.check("libero_object", spec)
    for wrong in (replace(spec, seed=7), replace(spec, task=TASKS["libero_object"][8]), replace(spec, index=17)):
        with pytest.raises(ConfigError, match=r"episode \d+ of 'tune' is"):
            tasks.check("libero_object", wrong)
    with pytest.raises(ConfigError):
        tasks.check("libero_goal", spec)
