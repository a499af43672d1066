from __future__ import annotations

import numpy as np
import pytest

from dyslctl.backbone import checked_image
from dyslctl.errors import ConfigError


def test_an_image_is_handed_back_as_it_is() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    assert checked_image("agent", image) is image


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 3), np.uint8), r"\[height, width, 3\], found \[2, 3\]"),
        (np.zeros((2, 3, 4), np.uint8), r"found \[2, 3, 4\]"),
        (np.zeros((0, 3, 3), np.uint8), r"found \[0, 3, 3\]"),
        (np.zeros((2, 3, 3), np.int64), "expected uint8, found int64$"),
        (np.zeros((2, 3, 3)), "expected uint8, found float64$"),
        (np.full((2, 3, 3), np.nan), "expected uint8, found float64 with NaN"),
    ],
)
def test_an_image_of_another_kind_is_named(image: np.ndarray, message: str) -> None:
    with pytest.raises(ConfigError, match=f"image 'agent': .*{message}"):
        checked_image("agent", image)
