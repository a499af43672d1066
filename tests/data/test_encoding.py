from __future__ import annotations

import numpy as np
import pytest

from dyslctl.data.encoding import PNG, ImageCoding
from dyslctl.data.images import decode_image
from dyslctl.errors import ConfigError

SMOOTH = (np.mgrid[0:16, 0:16].sum(0)[..., None] * np.array([8, 4, 2])).astype(np.uint8)


def test_png_loses_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(PNG.encode(noise), "here"), noise)
    assert PNG.name == "png"


def test_jpeg_is_near_and_smaller_the_lower_its_quality() -> None:
    coarse, fine = (ImageCoding(quality).encode(SMOOTH) for quality in (20, 95))
    assert len(coarse) < len(fine)
    assert np.abs(decode_image(fine, "here").astype(int) - SMOOTH).max() < 8
    assert ImageCoding(95).name == "jpeg"


@pytest.mark.parametrize("quality", [0, 101])
def test_a_quality_that_is_none(quality: int) -> None:
    with pytest.raises(ConfigError, match=f"expected 1 to 100, found {quality}"):
        ImageCoding(quality)
