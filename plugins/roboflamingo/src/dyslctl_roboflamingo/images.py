"""Camera images to CLIP's pixels as ``open_clip`` makes them: bicubic, centre crop, OpenAI's statistics."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dyslctl.backbone import checked_image
from dyslctl.errors import ConfigError
from dyslctl.types import Observation

VIEWS = ("scene", "gripper")
"""The scene camera and the one at the gripper, in this order."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def pixels_of(observation: Observation, size: int) -> Tensor:
    """``[V, 3, size, size]`` float32.

    Raises:
        ConfigError: If the number of views, an image's shape or its dtype is wrong.
    """
    images = observation.images
    if len(images) != len(VIEWS):
        raise ConfigError(
            f"the model reads {len(VIEWS)} camera views ({', '.join(VIEWS)}), the observation has {len(images)}: "
            f"{', '.join(images) or 'none'}",
            hint="Observation.images holds these in this order, under any names; of recorded episodes --data-map "
            "FILE.yaml names them (docs/data.md)",
        )
    fitted = np.stack([fit(checked_image(name, image), size) for name, image in images.items()])
    return normalized(torch.from_numpy(fitted).permute(0, 3, 1, 2).float() / 255)


def normalized(values: Tensor) -> Tensor:
    """``[..., 3, s, s]`` in [0, 1] with CLIP's statistics."""
    return (values - values.new_tensor(MEAN)[:, None, None]) / values.new_tensor(STD)[:, None, None]


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """``[height, width, 3]`` uint8 to ``[size, size, 3]``: the shorter side becomes ``size``, the middle stays."""
    height, width = image.shape[:2]
    shorter = min(height, width)
    scaled = (int(size * width / shorter), int(size * height / shorter))
    if scaled != (width, height):
        image = np.asarray(Image.fromarray(image).resize(scaled, Image.Resampling.BICUBIC))
    top, left = round((scaled[1] - size) / 2), round((scaled[0] - size) / 2)
    return image[top : top + size, left : left + size]
