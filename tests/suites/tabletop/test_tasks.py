from __future__ import annotations

import pytest

from dyslctl.errors import ConfigError
from dyslctl.suites.tabletop.tasks import (
    CHAINS,
    SPLIT_OFFSET,
    SPLIT_SIZE,
    episode_seed,
    instruction,
    task_ids,
    task_of,
)


def test_object_tasks_are_five_colours_times_two_bins() -> None:
    assert task_ids("object") == (
        "red_to_purple",
        "red_to_orange",
        "green_to_purple",
        "green_to_orange",
        "blue_to_purple",
        "blue_to_orange",
        "yellow_to_purple",
        "yellow_to_orange",
        "white_to_purple",
        "white_to_orange",
    )


def test_spatial_and_chain_have_ten_tasks_as_well() -> None:
    assert task_ids("spatial")[:3] == ("leftmost_to_purple", "leftmost_to_orange", "rightmost_to_purple")
    assert task_ids("chain")[9] == "chain_09"
    assert {len(task_ids(kind)) for kind in ("object", "spatial", "chain")} == {10}


def test_instructions_say_what_the_task_id_says() -> None:
    assert instruction("object", 0) == "pick up the red block and place it in the purple bin"
    assert instruction("spatial", 9) == "pick up the middle block and place it in the orange bin"


def test_a_chain_asks_for_each_block_once() -> None:
    assert all(sorted(colour for colour, _ in chain) == [0, 1, 2, 3, 4] for chain in CHAINS)
    assert len(set(CHAINS)) == 10
    colour, goal = CHAINS[3][4]
    names, bins = ("red", "green", "blue", "yellow", "white"), ("purple", "orange")
    assert instruction("chain", 3, 4) == f"pick up the {names[colour]} block and place it in the {bins[goal]} bin"


def test_split_seeds_are_ranges_that_do_not_touch() -> None:
    ranges = [range(offset, offset + SPLIT_SIZE) for offset in SPLIT_OFFSET.values()]
    assert [(r.start, r.stop) for r in sorted(ranges, key=lambda r: r.start)] == [
        (0, 10**7),
        (10**7, 2 * 10**7),
        (2 * 10**7, 3 * 10**7),
    ]
    assert [task_of(episode_seed("test", index)) for index in range(12)] == [*range(10), 0, 1]


@pytest.mark.parametrize("index", [-1, SPLIT_SIZE])
def test_an_episode_outside_its_split_is_refused(index: int) -> None:
    with pytest.raises(ConfigError, match=f"'tune'.*found {index}"):
        episode_seed("tune", index)
