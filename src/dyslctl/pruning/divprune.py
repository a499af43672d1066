"""DivPrune: keep the visual tokens that differ most from each other (Alvar et al., 2025).

The max-min diversity problem, greedily: no attention, no training, no memory of earlier inferences. A rival of
SpecPrune-VLA. Once, before layer 0, view by view; the original has one image.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dyslctl.backbone import Backbone
from dyslctl.engine import RUN, LayerSchedule, Step
from dyslctl.pruning.settings import PruningSettings
from dyslctl.pruning.tokens import prune
from dyslctl.types import LayerState


def distances(features: Tensor) -> Tensor:
    """``D_ij = 1 - cos(f_i, f_j)``, ``[N, N]`` float32, of ``[N, H]``."""
    unit = F.normalize(features.float(), dim=-1)
    return 1 - unit @ unit.T


def most_diverse(features: Tensor, count: int) -> Tensor:
    """The ``count`` of ``N`` tokens that lie farthest apart.

    First ``argmax_i min_{j != i} D_ij``, then again and again ``argmax_i min_{j chosen} D_ij``. Of equals the first.

    Args:
        features: ``[N, H]``.
        count: At most ``N``.

    Returns:
        ``[count]`` int64, in the order they were chosen.
    """
    apart = distances(features).cpu().numpy()
    np.fill_diagonal(apart, np.inf)
    chosen = [int(apart.min(axis=1).argmax())]
    nearest = apart[chosen[0]]
    while len(chosen) < count:
        nearest[chosen[-1]] = -np.inf  # chosen tokens stay out of it, whatever comes later
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, apart[chosen[-1]])
    return torch.tensor(chosen, device=features.device)


class DivPruneSchedule(LayerSchedule):
    """Every layer runs, on ``keep`` of the visual tokens. A ``keep`` of 1 is the full model, bit for bit."""

    def __init__(self, settings: PruningSettings) -> None:
        """``settings``: ``keep``, ``bucket``."""
        self._settings = settings

    def before(self, layer: int, state: LayerState) -> Step:
        """Prune before the first layer."""
        if layer == 0:
            prune(state, self._settings.keep, most_diverse, bucket=self._settings.bucket)
        return RUN


def schedule(backbone: Backbone, settings: PruningSettings) -> LayerSchedule:
    """The method ``divprune``; any backbone will do."""
    return DivPruneSchedule(settings)
