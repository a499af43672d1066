from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dyslctl.data.feature_statistics import of_images, of_numbers, together


def test_of_numbers_by_hand() -> None:
    found = of_numbers(np.array([[0.0, 10], [1, 10], [2, 10]], np.float32))
    assert found["min"].tolist() == [0, 10] and found["max"].tolist() == [2, 10]
    assert found["mean"].tolist() == [1, 10]
    np.testing.assert_allclose(found["std"], [np.sqrt(2 / 3), 0])
    assert found["count"].tolist() == [3]
    np.testing.assert_allclose(found["q10"], [0.2, 10])


def test_one_number_a_row_is_a_vector_of_one() -> None:
    found = of_numbers(np.arange(5))
    assert {value.shape for value in found.values()} == {(1,)}
    assert (found["min"].dtype, found["mean"].dtype) == (np.int64, np.float64)


@given(arrays(np.uint8, (2, 3, 4, 3)))
def test_of_images_is_what_the_pixels_say(images: np.ndarray) -> None:
    levels = np.stack([np.bincount(images[..., colour].ravel(), minlength=256) for colour in range(3)])
    found, pixels = of_images(levels, count=2), images.reshape(-1, 3) / 255
    for name, expected in (("min", pixels.min(0)), ("max", pixels.max(0)), ("mean", pixels.mean(0))):
        np.testing.assert_allclose(found[name], expected.reshape(3, 1, 1), atol=1e-9)
    np.testing.assert_allclose(found["std"], pixels.std(0).reshape(3, 1, 1), atol=1e-6)
    # The smallest level that at least half of the pixels do not exceed.
    np.testing.assert_allclose(found["q50"].ravel(), np.sort(pixels, axis=0)[len(pixels) // 2 - 1])
    assert found["count"].tolist() == [2]


@given(st.lists(arrays(np.float64, st.tuples(st.integers(1, 6), st.just(2)), elements=st.floats(-10, 10)), min_size=1))
def test_together_they_are_the_statistics_of_all(parts: list[np.ndarray]) -> None:
    found, whole = together([of_numbers(part) for part in parts]), of_numbers(np.concatenate(parts))
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(found[name], whole[name], atol=1e-6)


def test_quantiles_are_averaged_by_length() -> None:
    found = together([of_numbers(np.zeros(3)), of_numbers(np.full(1, 8.0))])
    assert found["q50"].tolist() == [2.0]
