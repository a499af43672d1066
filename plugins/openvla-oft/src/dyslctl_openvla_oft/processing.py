"""Camera images to the pixels both towers read, as in the released evaluation code but without TensorFlow."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from dyslctl.backbone import checked_image
from dyslctl.errors import ConfigError
from dyslctl.types import Observation
from dyslctl_openvla_oft.config import OFTConfig

CROP_AREA = 0.9
VIEWS_HINT = (
    "Observation.images holds them in the model's order, under any names; of recorded episodes --data-map FILE.yaml "
    "names them (docs/data.md); --set model.options.num_images=N if the checkpoint reads another number than its files "
    "say"
)
PROPRIO_HINT = (
    "Observation.proprio holds them; of recorded episodes proprio in --data-map FILE.yaml names the columns "
    "(docs/data.md); "
    "--set model.options.use_proprio=false if the checkpoint reads none"
)

Triple = tuple[float, float, float]


class PreprocessorConfig(BaseModel):
    """``preprocessor_config.json``: pixel statistics of each tower, DINOv2 first.

    The defaults are the published values; DINOv2's are ImageNet's, rounded to bfloat16 by the original conversion.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    image_processor_type: str = "PrismaticImageProcessor"
    use_fused_vision_backbone: bool = True
    image_resize_strategy: str = "resize-naive"
    input_sizes: tuple[tuple[int, int, int], ...] = ((3, 224, 224), (3, 224, 224))
    means: tuple[Triple, Triple] = ((0.484375, 0.455078125, 0.40625), (0.5, 0.5, 0.5))
    stds: tuple[Triple, Triple] = ((0.228515625, 0.2236328125, 0.224609375), (0.5, 0.5, 0.5))

    @classmethod
    def of(cls, config: OFTConfig) -> PreprocessorConfig:
        """The published statistics at ``config``'s image size."""
        size = (3, config.image_size, config.image_size)
        return cls(input_sizes=(size, size))

    @property
    def size(self) -> int:
        """Height and width of an input image, pixels."""
        return self.input_sizes[0][1]


def pixels(
    images: np.ndarray, config: PreprocessorConfig, center_crop: bool, device: torch.device | str = "cpu"
) -> Tensor:
    """Images of the right size to the towers' input.

    Args:
        images: ``[B, V, s, s, 3]`` uint8.
        config: Pixel statistics.
        center_crop: Zoom into the central 90 % of the area first.
        device: Where: cropping costs a processor core several milliseconds an image.

    Returns:
        ``[B, 6 * V, s, s]`` float32: for each view three channels for DINOv2, then three for SigLIP.
    """
    batch, views, height, width, _ = images.shape
    values = torch.from_numpy(images).to(device).reshape(-1, height, width, 3).permute(0, 3, 1, 2).float() / 255
    if center_crop:
        values = crop_center(values)
    return tower_inputs(values, config).reshape(batch, 6 * views, height, width)


def tower_inputs(values: Tensor, config: PreprocessorConfig) -> Tensor:
    """``[B, 3, s, s]`` in [0, 1], normalised with each tower's statistics: ``[B, 6, s, s]``."""
    towers = [
        (values - values.new_tensor(mean).view(3, 1, 1)) / values.new_tensor(std).view(3, 1, 1)
        for mean, std in zip(config.means, config.stds, strict=True)
    ]
    return torch.cat(towers, dim=1)


def crop_center(values: Tensor, area: float = CROP_AREA) -> Tensor:
    """``[B, 3, s, s]`` in [0, 1]: crop the central ``area``, scale back bilinearly, round to 8 bits.

    Equals ``tf.image.crop_and_resize`` on the box ``[o, o, o + sqrt(area), o + sqrt(area)]`` and TensorFlow's
    conversion to uint8, which truncates ``255.5 x``.
    """
    side = math.sqrt(area)
    # In float64: a rounding error before ``floor`` would be a whole level after it.
    theta = torch.tensor([[[side, 0, 0], [0, side, 0]]], dtype=torch.float64, device=values.device)
    theta = theta.expand(len(values), -1, -1)
    grid = F.affine_grid(theta, list(values.shape), align_corners=True)
    zoomed = F.grid_sample(values.double(), grid, mode="bilinear", align_corners=True)
    return ((zoomed.clamp(0, 1) * 255.5).floor().clamp(max=255) / 255).to(values.dtype)


def jpeg_round_trip(image: np.ndarray) -> np.ndarray:
    """``[height, width, 3]`` uint8, compressed and back as the images of the training set were: quality 95, 4:2:0."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling="4:2:0")
    return np.asarray(Image.open(buffer))


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """``[height, width, 3]`` uint8 to ``[size, size, 3]`` with a Lanczos filter of radius 3, smoothed if it shrinks."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))


def views_of(observation: Observation, views: Sequence[str], size: int, jpeg: bool = False) -> np.ndarray:
    """The camera views, as many as ``views`` names, as ``[V, s, s, 3]`` uint8.

    Those of another size are (compressed, if ``jpeg``, and) resized. A model of one view was trained with the scene
    camera alone, which comes first: it takes no notice of what a suite shows beside it.

    Raises:
        ConfigError: If the number of views, an image's shape, its dtype or a value is wrong.
    """
    images = observation.images
    if len(views) == 1:
        images = dict(islice(images.items(), 1))
    if len(images) != len(views):
        raise ConfigError(
            f"the model reads {len(views)} camera views ({', '.join(views)}), the observation has {len(images)}: "
            f"{', '.join(images) or 'none'}",
            hint=VIEWS_HINT,
        )
    return np.stack([_fitted(checked_image(name, image), size, jpeg) for name, image in images.items()])


def proprio_of(observation: Observation, proprio_dim: int) -> np.ndarray:
    """The robot's state ``[P]``.

    Raises:
        ConfigError: If it is missing, of another size, or not finite.
    """
    proprio = observation.proprio
    if proprio is None:
        raise ConfigError(
            f"the model reads {proprio_dim} proprioceptive values, the observation has none", PROPRIO_HINT
        )
    if proprio.shape != (proprio_dim,):
        raise ConfigError(f"proprio: expected shape ({proprio_dim},), found {proprio.shape}", PROPRIO_HINT)
    if not np.isfinite(proprio).all():
        raise ConfigError(f"proprio: not finite at index {np.flatnonzero(~np.isfinite(proprio)).tolist()}")
    return proprio


def _fitted(image: np.ndarray, size: int, jpeg: bool) -> np.ndarray:
    if image.shape[:2] == (size, size):
        return image
    return resized(jpeg_round_trip(image) if jpeg else image, size)
