"""Pixels against values worked out with numpy and Pillow alone."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from dyslctl_openvla_oft.processing import (
    PreprocessorConfig,
    crop_center,
    jpeg_round_trip,
    pixels,
    proprio_of,
    resized,
    views_of,
)
from PIL import Image

from dyslctl.errors import ConfigError
from dyslctl.types import Observation

PUBLISHED = PreprocessorConfig()

VIEWS = ("third person", "wrist")


def image(height: int = 28, width: int = 28, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_channels_of_both_towers_view_after_view() -> None:
    views = np.stack([image(seed=0), image(seed=1)])
    values = pixels(views[None], PUBLISHED, center_crop=False).numpy()[0]
    imagenet = np.array([0.484375, 0.455078125, 0.40625]), np.array([0.228515625, 0.2236328125, 0.224609375])
    expected = []
    for view in views:
        unit = view.astype(np.float64) / 255
        expected += [((unit - imagenet[0]) / imagenet[1]).transpose(2, 0, 1), ((unit - 0.5) / 0.5).transpose(2, 0, 1)]
    np.testing.assert_allclose(values, np.concatenate(expected), atol=1e-5)


def test_published_dino_statistics_are_imagenets_in_bfloat16() -> None:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    assert PUBLISHED.means[0] == tuple(mean.bfloat16().tolist())
    assert PUBLISHED.stds[0] == tuple(std.bfloat16().tolist())


def test_center_crop_is_tensorflows_crop_and_resize() -> None:
    """``in = o (s - 1) + i sqrt(0.9)`` for output pixel ``i``, bilinear, then ``floor(255.5 x)``."""
    size, side = 28, math.sqrt(0.9)
    source = image().astype(np.float64) / 255
    where = (1 - side) / 2 * (size - 1) + np.arange(size) * side
    low, high, weight = np.floor(where).astype(int), np.ceil(where).astype(int), where - np.floor(where)
    rows = source[low] * (1 - weight)[:, None, None] + source[high] * weight[:, None, None]
    both = rows[:, low] * (1 - weight)[None, :, None] + rows[:, high] * weight[None, :, None]
    expected = np.floor(both * 255.5)

    cropped = crop_center(torch.from_numpy(source).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy() * 255
    np.testing.assert_allclose(cropped, expected, atol=1e-6)


def test_center_crop_keeps_black_and_white() -> None:
    values = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 28, 28)
    assert torch.equal(crop_center(values), values)


@pytest.mark.parametrize("crop", [False, True])
def test_pixels_are_made_where_the_model_is(crop: bool) -> None:
    """Nothing stays behind: mixing devices would be an error."""
    made = pixels(image()[None, None], PUBLISHED, center_crop=crop, device="meta")
    assert (made.device.type, made.dtype, list(made.shape)) == ("meta", torch.float32, [1, 6, 28, 28])


def test_crop_is_an_option() -> None:
    views = image()[None, None]
    plain, cropped = (pixels(views, PUBLISHED, center_crop=crop) for crop in (False, True))
    assert not torch.equal(plain, cropped)
    unit = cropped[0, 3:] * 0.5 + 0.5
    torch.testing.assert_close(unit, crop_center(torch.from_numpy(views[0]).permute(0, 3, 1, 2) / 255)[0])


def test_images_are_resized_only_if_they_must() -> None:
    exact, larger = image(28, 28), image(56, 40, seed=1)
    views = views_of(Observation({"agent": exact, "wrist": larger}, "go"), views=VIEWS, size=28)
    assert np.array_equal(views[0], exact)
    assert np.array_equal(views[1], np.asarray(Image.fromarray(larger).resize((28, 28), Image.Resampling.LANCZOS)))


def test_a_model_of_one_view_looks_through_the_first_camera() -> None:
    scene, wrist = image(28, 28), image(28, 28, seed=1)
    (seen,) = views_of(Observation({"agent": scene, "wrist": wrist}, "go"), views=("third person",), size=28)
    assert np.array_equal(seen, scene)


def smooth(size: int) -> np.ndarray:
    """Something like a photograph: ``[size, size, 3]`` without sharp edges, plus a few."""
    coarse = Image.fromarray(image(9, 9)).resize((size, size), Image.Resampling.BICUBIC)
    picture = np.asarray(coarse).copy()
    picture[size // 3 : size // 2, size // 4 : size // 2] = (200, 30, 40)
    return picture


def lanczos3(size: int, out: int) -> np.ndarray:
    """``[out, size]`` weights of ``tf.image.resize(method="lanczos3", antialias=True)``."""
    scale = max(size / out, 1)
    distance = np.abs((np.arange(size) + 0.5) - (np.arange(out)[:, None] + 0.5) * size / out) / scale
    weights = np.where(distance < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
    normalized: np.ndarray = weights / weights.sum(1, keepdims=True)
    return normalized


@pytest.mark.parametrize("size", [256, 360, 128])
def test_pillows_lanczos_is_tensorflows_but_for_one_level(size: int) -> None:
    """TensorFlow rounds once, after both axes; Pillow after each, with fixed-point weights."""
    source, weights = smooth(size), lanczos3(size, 224)
    exact = weights @ source.transpose(2, 0, 1) @ weights.T
    expected = np.clip(np.round(exact), 0, 255).transpose(1, 2, 0)
    difference = np.abs(resized(source, 224).astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.25


def test_jpeg_is_of_quality_95() -> None:
    """Visible only in numbers: a fraction of a level on average, and not the identity."""
    source = smooth(256)
    compressed = io.BytesIO()
    Image.fromarray(source).save(compressed, "JPEG", quality=95)
    assert np.array_equal(jpeg_round_trip(source), np.asarray(Image.open(compressed)))
    assert 0 < np.abs(jpeg_round_trip(source).astype(int) - source).mean() < 2


def test_an_image_is_compressed_then_resized_unless_it_has_the_models_size() -> None:
    exact, larger = image(28, 28), smooth(64)
    observation = Observation({"agent": exact, "wrist": larger}, "go")
    views = views_of(observation, views=VIEWS, size=28, jpeg=True)
    assert np.array_equal(views[0], exact)
    assert np.array_equal(views[1], resized(jpeg_round_trip(larger), 28))
    assert not np.array_equal(views[1], resized(larger, 28))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({}, r"reads 2 camera views \(third person, wrist\), the observation has 0: none"),
        ({"agent": image()}, r"reads 2 camera views \(third person, wrist\), the observation has 1: agent"),
        ({"agent": image(), "wrist": image(), "top": image()}, "has 3: agent, wrist, top"),
        ({"agent": image(), "wrist": image()[..., :1]}, r"image 'wrist': expected shape .*, found \[28, 28, 1\]"),
        ({"agent": image()[0], "wrist": image()}, r"image 'agent': expected shape .*, found \[28, 3\]"),
        ({"agent": image()[:0], "wrist": image()}, r"image 'agent': expected shape .*, found \[0, 28, 3\]"),
        ({"agent": image() / 255, "wrist": image()}, "image 'agent': expected uint8, found float64$"),
        ({"agent": image() * np.nan, "wrist": image()}, "image 'agent': expected uint8, found float64 with NaN"),
        ({"agent": np.full((28, 28, 3), np.inf), "wrist": image()}, "float64 with NaN or infinite values"),
        ({"agent": image().astype(np.int64), "wrist": image()}, "expected uint8, found int64"),
    ],
)
def test_bad_images(images: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        views_of(Observation(images, "go"), views=VIEWS, size=28)


@pytest.mark.parametrize("count", [1, 3])
def test_a_wrong_number_of_views_says_where_views_are_named(count: int) -> None:
    with pytest.raises(ConfigError) as caught:
        views_of(Observation({f"v{n}": image() for n in range(count)}, "go"), views=VIEWS, size=28)
    assert "--data-map" in str(caught.value.hint) and "model.options.num_images" in str(caught.value.hint)


@pytest.mark.parametrize("proprio", [None, np.zeros(4)])
def test_a_wrong_robot_state_says_where_its_columns_are_named(proprio: np.ndarray | None) -> None:
    with pytest.raises(ConfigError) as caught:
        proprio_of(Observation({}, "go", proprio), proprio_dim=5)
    assert "proprio in --data-map" in str(caught.value.hint) and "use_proprio=false" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("proprio", "message"),
    [
        (None, "reads 5 proprioceptive values, the observation has none"),
        (np.zeros(4), r"expected shape \(5,\), found \(4,\)"),
        (np.zeros((1, 5)), r"expected shape \(5,\), found \(1, 5\)"),
        (np.array([0, np.nan, 0, np.inf, 0]), r"not finite at index \[1, 3\]"),
    ],
)
def test_bad_proprio(proprio: np.ndarray | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        proprio_of(Observation({}, "go", proprio), proprio_dim=5)
