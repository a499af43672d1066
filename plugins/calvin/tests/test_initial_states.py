"""Where everything stands when a chain begins."""

from __future__ import annotations

import numpy as np
import pytest
from dyslctl_calvin import initial_states
from dyslctl_calvin.fnv import fnv1_32
from dyslctl_calvin.initial_states import SCENES, Scene
from dyslctl_calvin.sequences import initial_states as states
from hypothesis import given
from hypothesis import strategies as st

sampled = st.sampled_from(states())


def test_the_seed_of_the_first_and_of_the_last() -> None:
    found = [fnv1_32(str(dict(state).values())) for state in (states()[0], states()[-1])]
    assert found == [432992106, 210305892]


def test_the_first_placement() -> None:
    """Red and blue on the table, in the shuffled order; pink in the right half; numbers of the official code."""
    placement = initial_states.official(states()[0])
    assert placement.joints.tolist() == [0] * 6
    expected = [
        *(0.229995412, -0.11999514, 0.45999001, 0, 0, 1.4418709252147632),
        *(0.0500000896, -0.120000177, 0.459990009, 0, 0, 1.4098806994949187),
        *(0.070341633, 0.0924044687, 0.460990009, 0, 0, 1.5630616199523633),
    ]
    assert placement.scene_obs()[6:].tolist() == expected
    assert placement.scene_obs(("pink", "blue", "red"))[6:].tolist() == expected[12:] + expected[6:12] + expected[:6]


def test_joints_follow_the_words() -> None:
    on = {**states()[0], "led": 1, "lightbulb": 1, "slider": "left", "drawer": "open"}
    assert initial_states.official(on).joints.tolist() == [0.28, 0.22, 0, 0.088, 1, 1]
    assert initial_states.drawn(on, "C", 0).joints[0] == 0.24  # its door goes less far


@given(sampled, st.sampled_from(SCENES), st.integers(0, 2**32 - 1))
def test_a_drawn_placement_is_near_an_official_one_and_blocks_keep_apart(
    state: object, scene: Scene, seed: int
) -> None:
    placement = initial_states.drawn(state, scene, seed)  # type: ignore[arg-type]
    again = initial_states.drawn(state, scene, seed)  # type: ignore[arg-type]
    np.testing.assert_array_equal(placement.scene_obs(), again.scene_obs())
    positions = np.array([pose[:2] for pose in placement.blocks.values()])
    gaps = np.linalg.norm(positions[:, None] - positions[None], axis=-1)[np.triu_indices(3, 1)]
    assert gaps.min() > 0.12  # the largest block is 8 cm long
    places = initial_states.PLACES[scene]
    known = np.array([place[:2] for place in (*places.table, *places.cabinet.values())])
    assert np.abs(positions[:, None] - known[None]).max(-1).min(-1).max() <= initial_states.SHIFT
    assert all(np.pi * 3 / 8 <= pose[5] <= np.pi * 5 / 8 for pose in placement.blocks.values())


@pytest.mark.parametrize("seed", range(3))
def test_only_official_placements_are_official(seed: int) -> None:
    state = states()[seed]
    assert not np.array_equal(
        initial_states.drawn(state, "D", seed).scene_obs(), initial_states.official(state).scene_obs()
    )
