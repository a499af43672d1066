from __future__ import annotations

import errno
import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dyslctl.data.image_file import LEVEL, ImageFile
from dyslctl.errors import ArtifactError, EnvironmentMismatch, PluginError
from dyslctl.types import Observation


def picture(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99)), min_size=1, max_size=8), st.data())
def test_images_come_back_in_any_order(sizes: list[tuple[int, int, int]], data: st.DataObject) -> None:
    file, images = ImageFile.temporary(), [picture(*size) for size in sizes]
    places = [file.write(image) for image in images]
    for number in data.draw(st.permutations(range(len(images)))):
        assert np.array_equal(file.read(places[number]), images[number])


def test_an_observation_keeps_its_words_and_numbers_and_the_order_of_its_views(tmp_path: Path) -> None:
    """Reading one image does not disturb the writing of the next."""
    file = ImageFile.temporary(tmp_path / "new")
    seen = [
        Observation({"wrist": picture(4, 4, n), "agent": picture(6, 5, n + 50)}, f"task {n}", np.full(2, n, np.float32))
        for n in range(3)
    ]
    kept = []
    for observation in seen:
        kept.append(file.keep(observation))
        assert np.array_equal(kept[0].images["agent"], seen[0].images["agent"])
    for before, after in zip(seen, kept, strict=True):
        assert (after.instruction, list(after.images)) == (before.instruction, ["wrist", "agent"])
        assert after.proprio is before.proprio
        assert all(np.array_equal(after.images[view], before.images[view]) for view in before.images)
    assert not list((tmp_path / "new").iterdir()), "the file has no name"


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(PluginError, match=r"expected an image .* uint8, found \[2, 2, 3\] float64"):
        ImageFile.temporary().write(np.zeros((2, 2, 3)))


def test_what_a_camera_took_needs_less_room_as_differences() -> None:
    """A slow gradient with noise of one level either way."""
    rng, ramp = np.random.default_rng(0), np.arange(64)
    image = (40 + ramp[:, None, None] + 2 * ramp[None, :, None] + rng.integers(-1, 2, (64, 64, 3))).astype(np.uint8)
    assert ImageFile.temporary().write(image)[1] < 0.6 * len(zlib.compress(image.tobytes(), LEVEL))


def test_the_file_is_closed_with_its_last_image() -> None:
    stream = io.BytesIO()
    file = ImageFile(stream, Path("somewhere"))
    kept = file.keep(Observation({"agent": picture(2, 2, 0)}, ""))
    del file
    assert not stream.closed
    del kept
    assert stream.closed


def test_a_full_disk_is_the_machines_fault() -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(EnvironmentMismatch, match="cannot write somewhere: No space left") as caught:
        ImageFile(Full(), Path("somewhere")).keep(Observation({"agent": picture(2, 2, 0)}, ""))
    assert "free some disk space" in str(caught.value.hint)


def test_an_image_that_was_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "images"
    with path.open("w+b") as stream:
        file = ImageFile(stream, path)
        place = file.write(picture(8, 8, 0))
        stream.flush()
        stream.truncate(place[1] // 2)
        with pytest.raises(ArtifactError, match=r"images: expected \d+ bytes of an image at 0, found \d+ damaged ones"):
            file.read(place)
