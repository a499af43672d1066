from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.errors import ConfigError
from dyslctl.pruning.frames import FrameMemory, changed, frame_of, inferences_back, similarity, steps_back, unchanged


def test_steps_back_by_hand() -> None:
    """7 - v + 4, rounded down: a resting arm looks 11 steps back, a fast one 9."""
    assert [steps_back(v) for v in (0.0, 0.01, 1.0, 1.01, 1.73, 30.0)] == [11, 10, 10, 9, 9, 1]


def test_inferences_back_by_hand() -> None:
    """Of 8 actions each: 11 steps are nearest to one. Of 4: 10 are as near to two as to three."""
    assert [inferences_back(0.0, h) for h in (1, 2, 4, 8, 25)] == [11, 6, 3, 1, 1]
    assert [inferences_back(0.5, h) for h in (1, 4, 8)] == [10, 3, 1]
    assert inferences_back(1.5, 4) == 2


@given(st.lists(st.floats(0, 3), max_size=30), st.integers(1, 30))
def test_the_reference_is_that_many_inferences_back(speeds: list[float], horizon: int) -> None:
    memory, seen = FrameMemory(), list[int]()
    for number, speed in enumerate(speeds):
        reference = memory.reference(speed, horizon)
        if not seen:
            assert reference is None
        else:
            assert reference is not None
            assert reference[0].item() == seen[max(0, len(seen) - inferences_back(speed, horizon))]
        memory = memory.after((np.array(number),), horizon)
        seen.append(number)


def test_a_frame_is_a_copy() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    frame = frame_of({"agent": image})
    image[:] = 9
    assert not frame[0].any()


def test_similarity_by_hand() -> None:
    """Four patches of one pixel: the same colour darker, red against green, red against yellow, black against black."""
    now = np.array([[[200, 100, 0], [255, 0, 0]], [[255, 0, 0], [0, 0, 0]]], np.uint8)
    then = np.array([[[100, 50, 0], [0, 255, 0]], [[100, 100, 0], [0, 0, 0]]], np.uint8)
    np.testing.assert_allclose(similarity(now, then, 4), [1, 0, math.sqrt(0.5), 1], atol=1e-6)


def test_black_is_like_no_colour() -> None:
    black, red = np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 7, np.uint8)
    assert similarity(black, red, 1).tolist() == similarity(red, black, 1).tolist() == [0]


def test_a_patch_is_a_block_of_pixels_row_by_row() -> None:
    """What changes is in the right half of the lower half: the last of four patches, of 9 where the size is 10."""
    rng = np.random.default_rng(0)
    now = rng.integers(1, 256, (10, 8, 3), dtype=np.uint8)
    then = now.copy()
    then[7:, 6:] = 255 - then[7:, 6:]
    assert (similarity(now, then, 4) < 0.9999).tolist() == [False, False, False, True]
    assert (similarity(now, then, 9) < 0.9999).nonzero()[0].tolist() == [8]
    one = now[7:, 6:].astype(float).ravel(), then[7:, 6:].astype(float).ravel()
    cosine = one[0] @ one[1] / np.linalg.norm(one[0]) / np.linalg.norm(one[1])
    assert similarity(now[7:, 6:], then[7:, 6:], 1)[0] == pytest.approx(cosine, rel=1e-5)


def test_tokens_without_a_grid_are_refused() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    for tokens in (5, 100):
        with pytest.raises(ConfigError, match=f"square grid of patches, found {tokens} tokens"):
            similarity(image, image, tokens)


def test_the_least_similar_have_changed() -> None:
    similarities = np.array([0.9, 0.2, 0.96, 0.2, 0.95, 0.1])
    assert changed(similarities, 0.95, 3).tolist() == [5, 1, 3]
    assert changed(similarities, 0.95, 9).tolist() == [5, 1, 3, 0], "at the threshold it has not"
    assert changed(np.ones(4), 0.95, 2).tolist() == []


def test_the_most_similar_are_as_before() -> None:
    similarities = np.array([0.9, 0.99, 0.996, 1.0, 0.99])
    assert unchanged(similarities, 0.99, 3).tolist() == [3, 2, 1]
    assert unchanged(similarities, 0.99, 9).tolist() == [3, 2, 1, 4], "at the threshold it is"
    assert unchanged(np.zeros(4), 0.99, 2).tolist() == []
