from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from dyslctl_roboflamingo.images import MEAN, STD, fit, pixels_of
from PIL import Image

from dyslctl.errors import ConfigError
from dyslctl.types import Observation


def test_black_and_white_by_hand() -> None:
    images = {"static": np.zeros((4, 4, 3), np.uint8), "gripper": np.full((4, 4, 3), 255, np.uint8)}
    pixels = pixels_of(Observation(images, "go"), 4)
    assert pixels.shape == (2, 3, 4, 4)
    np.testing.assert_allclose(pixels[0, :, 0, 0], [-m / s for m, s in zip(MEAN, STD, strict=True)], rtol=1e-6)
    np.testing.assert_allclose(pixels[1, :, 0, 0], [(1 - m) / s for m, s in zip(MEAN, STD, strict=True)], rtol=1e-6)


def test_the_shorter_side_becomes_the_size_and_the_middle_stays() -> None:
    image = np.zeros((6, 12, 3), np.uint8)
    image[:, 3:9] = 200
    assert (fit(image, 6) == 200).all()
    assert fit(np.zeros((50, 30, 3), np.uint8), 14).shape == (14, 14, 3)


def test_bicubic_of_pillow() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((14, 14), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(fit(image, 14), expected)
    assert fit(image, 20) is not None and np.array_equal(fit(image, 20), image)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: {}, "reads 2 camera views.*has 0: none"),
        (lambda images: {**images, "third": images["static"]}, "has 3: static, gripper, third"),
        (lambda images: {**images, "gripper": images["gripper"][..., 0]}, r"'gripper': expected shape .* found \[84"),
        (lambda images: {**images, "static": images["static"] / 255}, "'static': expected uint8, found float64"),
    ],
)
def test_what_is_no_image_is_named(observe: Callable[..., Observation], change: Callable, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError, match=message):
        pixels_of(Observation(change(dict(observe().images)), "go"), 28)
