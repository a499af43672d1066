"""Which patches of the pictures have changed (SpecPrune-VLA, section 4.1.2).

The frame to compare with lies ``T`` control steps back, the more the slower the arm is:

    T = floor(b + k v) + 4,  b = 7, k = -1

A policy sees one frame an inference, so the one nearest to that is taken, but never the current one. Pictures are
compared as the camera gives them: a model that crops them sees each patch up to one patch further inside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dyslctl.errors import ConfigError

OFFSET, SLOPE, MARGIN = 7, -1, 4
Frame = tuple[np.ndarray, ...]
"""One picture a view, ``[height, width, 3]`` uint8."""


def steps_back(translation: float) -> int:
    """``T``, at least 1, given the speed ``v_t`` of the last action."""
    return max(1, math.floor(OFFSET + SLOPE * translation) + MARGIN)


def inferences_back(translation: float, execute_horizon: int) -> int:
    """The number of inferences, at least 1, that is nearest to ``T`` steps; of two equally near the larger."""
    return max(1, math.floor(steps_back(translation) / execute_horizon + 0.5))


@dataclass(frozen=True)
class FrameMemory:
    """The frames of earlier inferences, as many as can be asked for.

    Attributes:
        frames: Newest first.
    """

    frames: tuple[Frame, ...] = ()

    def after(self, frame: Frame, execute_horizon: int) -> FrameMemory:
        """With ``frame`` as the newest."""
        return FrameMemory((frame, *self.frames)[: inferences_back(0.0, execute_horizon)])

    def reference(self, translation: float, execute_horizon: int) -> Frame | None:
        """What the current frame is compared with; the oldest, if the past is shorter; ``None`` if there is none."""
        if not self.frames:
            return None
        return self.frames[min(inferences_back(translation, execute_horizon), len(self.frames)) - 1]


def frame_of(images: Mapping[str, np.ndarray]) -> Frame:
    """A copy: a simulator may paint the next picture into the same memory."""
    return tuple(np.array(image) for image in images.values())


def similarity(now: np.ndarray, then: np.ndarray, tokens: int) -> np.ndarray:
    """The cosine between the pixels of each patch now and then, ``[tokens]`` float32, row by row.

    Args:
        now: ``[height, width, 3]``.
        then: Likewise, of another frame.
        tokens: Patches of a view, a square number. A black patch equals another black one and no other.

    Raises:
        ConfigError: If ``tokens`` is not a square, or a patch would have no pixel.
    """
    side = math.isqrt(tokens)
    if side * side != tokens or min(now.shape[:2]) < side:
        raise ConfigError(f"expected a square grid of patches, found {tokens} tokens for a view of {now.shape[:2]}")
    a, b = now.astype(np.float32), then.astype(np.float32)
    dot, aa, bb = (_patch_sums((x * y).sum(-1), side) for x, y in ((a, b), (a, a), (b, b)))
    norms = np.sqrt(aa * bb)
    both_black = (aa == 0) & (bb == 0)
    return np.where(both_black, np.float32(1), dot / np.where(norms == 0, np.float32(1), norms)).reshape(-1)


def changed(similarities: np.ndarray, threshold: float, count: int) -> np.ndarray:
    """Indices of the ``count`` least similar of those below ``threshold`` (Eq. 3, 4); of equals the first."""
    order = np.argsort(similarities, kind="stable")
    return order[similarities[order] < threshold][:count]


def unchanged(similarities: np.ndarray, threshold: float, count: int) -> np.ndarray:
    """Indices of the ``count`` most similar of those at ``threshold`` or above; of equals the first."""
    order = np.argsort(-similarities, kind="stable")
    return order[similarities[order] >= threshold][:count]


def _patch_sums(values: np.ndarray, side: int) -> np.ndarray:
    """``[height, width]`` summed over ``side x side`` patches; where sizes do not divide they differ by a pixel."""
    rows, columns = (np.arange(side) * size // side for size in values.shape)
    sums: np.ndarray = np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)
    return sums
