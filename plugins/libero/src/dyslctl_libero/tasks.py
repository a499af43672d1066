"""The forty tasks, and which initial state each episode begins from. Needs no simulator."""

from __future__ import annotations

from typing import Literal

from dyslctl.errors import ConfigError
from dyslctl.suite import EpisodeSpec, Split

SuiteName = Literal["libero_spatial", "libero_object", "libero_goal", "libero_10"]

TASKS: dict[SuiteName, tuple[str, ...]] = {
    "libero_spatial": (
        "pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate",
        "pick_up_the_black_bowl_next_to_the_ramekin_and_place_it_on_the_plate",
        "pick_up_the_black_bowl_from_table_center_and_place_it_on_the_plate",
        "pick_up_the_black_bowl_on_the_cookie_box_and_place_it_on_the_plate",
        "pick_up_the_black_bowl_in_the_top_drawer_of_the_wooden_cabinet_and_place_it_on_the_plate",
        "pick_up_the_black_bowl_on_the_ramekin_and_place_it_on_the_plate",
        "pick_up_the_black_bowl_next_to_the_cookie_box_and_place_it_on_the_plate",
        "pick_up_the_black_bowl_on_the_stove_and_place_it_on_the_plate",
        "pick_up_the_black_bowl_next_to_the_plate_and_place_it_on_the_plate",
        "pick_up_the_black_bowl_on_the_wooden_cabinet_and_place_it_on_the_plate",
    ),
    "libero_object": (
        "pick_up_the_alphabet_soup_and_place_it_in_the_basket",
        "pick_up_the_cream_cheese_and_place_it_in_the_basket",
        "pick_up_the_salad_dressing_and_place_it_in_the_basket",
        "pick_up_the_bbq_sauce_and_place_it_in_the_basket",
        "pick_up_the_ketchup_and_place_it_in_the_basket",
        "pick_up_the_tomato_sauce_and_place_it_in_the_basket",
        "pick_up_the_butter_and_place_it_in_the_basket",
        "pick_up_the_milk_and_place_it_in_the_basket",
        "pick_up_the_chocolate_pudding_and_place_it_in_the_basket",
        "pick_up_the_orange_juice_and_place_it_in_the_basket",
    ),
    "libero_goal": (
        "open_the_middle_drawer_of_the_cabinet",
        "put_the_bowl_on_the_stove",
        "put_the_wine_bottle_on_top_of_the_cabinet",
        "open_the_top_drawer_and_put_the_bowl_inside",
        "put_the_bowl_on_top_of_the_cabinet",
        "push_the_plate_to_the_front_of_the_stove",
        "put_the_cream_cheese_in_the_bowl",
        "turn_on_the_stove",
        "put_the_bowl_on_the_plate",
        "put_the_wine_bottle_on_the_rack",
    ),
    "libero_10": (
        "LIVING_ROOM_SCENE2_put_both_the_alphabet_soup_and_the_tomato_sauce_in_the_basket",
        "LIVING_ROOM_SCENE2_put_both_the_cream_cheese_box_and_the_butter_in_the_basket",
        "KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it",
        "KITCHEN_SCENE4_put_the_black_bowl_in_the_bottom_drawer_of_the_cabinet_and_close_it",
        "LIVING_ROOM_SCENE5_put_the_white_mug_on_the_left_plate_and_put_the_yellow_and_white_mug_on_the_right_plate",
        "STUDY_SCENE1_pick_up_the_book_and_place_it_in_the_back_compartment_of_the_caddy",
        "LIVING_ROOM_SCENE6_put_the_white_mug_on_the_plate_and_put_the_chocolate_pudding_to_the_right_of_the_plate",
        "LIVING_ROOM_SCENE1_put_both_the_alphabet_soup_and_the_cream_cheese_box_in_the_basket",
        "KITCHEN_SCENE8_put_both_moka_pots_on_the_stove",
        "KITCHEN_SCENE6_put_the_yellow_and_white_mug_in_the_microwave_and_close_it",
    ),
}
"""In the benchmark's own order (its task order 0)."""

WITHOUT_SKILL = frozenset(
    {
        "open_the_middle_drawer_of_the_cabinet",
        "open_the_top_drawer_and_put_the_bowl_inside",
        "push_the_plate_to_the_front_of_the_stove",
        "turn_on_the_stove",
        "KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it",
        "KITCHEN_SCENE4_put_the_black_bowl_in_the_bottom_drawer_of_the_cabinet_and_close_it",
        "STUDY_SCENE1_pick_up_the_book_and_place_it_in_the_back_compartment_of_the_caddy",
        "KITCHEN_SCENE6_put_the_yellow_and_white_mug_in_the_microwave_and_close_it",
    }
)
"""Tasks that the scripted expert refuses. What it can do is in ``expert``; this says it without a simulator."""

MAX_STEPS: dict[SuiteName, int] = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520}
"""Actions an episode may take in the released OpenVLA-OFT evaluation, the waiting at its beginning not counted."""

TRIALS = 50
"""Official initial states of a task; together they are the ``test`` split."""

SPLIT_SIZE = 10_000_000
SPLIT_OFFSET: dict[Split, int] = {"train": SPLIT_SIZE, "tune": 2 * SPLIT_SIZE}
"""Episode ``index`` of these splits begins from the placement that the scene's own sampler draws with seed
``SPLIT_OFFSET[split] + index``. The official states come from the same sampler, and are never drawn from here."""


def instruction(task: str) -> str:
    """The task in words, as the benchmark derives it: ``KITCHEN_SCENE3_turn_on_the_stove`` -> ``turn on the stove``."""
    scene, found, words = task.partition("SCENE")
    return (words.partition("_")[2] if found else scene).replace("_", " ")


def episode(suite: SuiteName, split: Split, index: int) -> EpisodeSpec:
    """Episode ``index`` of ``split``: task ``index % 10``. In ``test`` its seed is the official initial state's number.

    Raises:
        ConfigError: If the split is smaller than that.
    """
    tasks = TASKS[suite]
    size = SPLIT_SIZE if split in SPLIT_OFFSET else TRIALS * len(tasks)
    if not 0 <= index < size:
        raise ConfigError(
            f"{suite}: split '{split}' has episodes 0 to {size - 1}, found {index}",
            hint=f"--episodes {size} is all of them",
        )
    seed = SPLIT_OFFSET[split] + index if split in SPLIT_OFFSET else index // len(tasks)
    return EpisodeSpec(suite, split, index, tasks[index % len(tasks)], seed)


def check(suite: SuiteName, spec: EpisodeSpec) -> None:
    """Refuse a spec that is none of ours.

    Raises:
        ConfigError: If suite, task or seed are not those of its index.
    """
    if spec != (expected := episode(suite, spec.split, spec.index)):
        raise ConfigError(
            f"{suite}: episode {spec.index} of '{spec.split}' is {expected}, found {spec}",
            hint="take specs from TaskSuite.episodes()",
        )
