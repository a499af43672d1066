"""What exits see of a sample that SpecPrune-VLA has pruned: what ``dysl+specprune`` acts on, to be learnt from.

A sample is pruned as at inference, by the same schedule at the same depths. What a training lacks is the past. For the
global set a full pass over the sample itself stands in for the previous inference, since two inferences in a row see
nearly the same picture; for the same reason no patch counts as changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.dysl.exit_training import ExitViews, RecordExits
from dyslctl.engine import forward_together
from dyslctl.joint.depths import snapped
from dyslctl.joint.schedule import JointSchedule
from dyslctl.pruning.action_mode import Mode
from dyslctl.pruning.settings import PRUNING, PruningSettings
from dyslctl.pruning.specprune import Depths, Found, Outlook, SpecPruneSchedule
from dyslctl.types import LayerInputs

ALPHAS = (0.6, 0.8, 1.0)
MODES: tuple[Mode, ...] = ("coarse", "fine")
NOTHING_CHANGED = np.empty(0, np.int64)


@dataclass(frozen=True)
class Subset:
    """How much of one sample is left to see.

    Attributes:
        alpha: As ``pruning.alpha``.
        mode: Whose budgets.
    """

    alpha: float
    mode: Mode


def draw_subsets(rng: np.random.Generator, count: int) -> list[Subset]:
    """One for each of ``count`` samples: any of :data:`ALPHAS` and of :data:`MODES`, equally likely."""
    alphas, modes = rng.integers(len(ALPHAS), size=count), rng.integers(len(MODES), size=count)
    return [Subset(ALPHAS[alpha], MODES[mode]) for alpha, mode in zip(alphas, modes, strict=True)]


@torch.no_grad()
def subset_views(
    backbone: Backbone,
    inputs: LayerInputs,
    memory: Tensor,
    exits: Sequence[int],
    subsets: Sequence[Subset],
    pruning: PruningSettings = PRUNING,
) -> ExitViews:
    """:func:`~dyslctl.dysl.exit_training.exit_views` of ``B`` samples, each on its own subset of the visual tokens.

    Two frozen passes: a full one, to name the global sets, and one on what is left, as far as the last of ``exits``.
    Samples run side by side where they have equally many tokens left.

    Args:
        backbone: The frozen model.
        inputs: ``B`` samples without padding.
        memory: ``[B, P]``.
        exits: Ascending.
        subsets: One for each sample.
        pruning: The rest of the settings.
    """
    depths = snapped(Depths.of(backbone.spec.num_layers), range(exits[0]), contiguous=True)
    settings = [replace(pruning, alpha=subset.alpha) for subset in subsets]
    tokens = [SpecPruneSchedule(backbone.attention_rows, each, depths) for each in settings]
    firsts, records = [0] * len(tokens), [RecordExits(exits) for _ in tokens]
    forward_together(backbone, [*inputs.samples()], tokens, firsts)
    for schedule, subset in zip(tokens, subsets, strict=True):
        schedule.outlook = _outlook(schedule.found, subset.mode)
    forward_together(backbone, [*inputs.samples()], list(map(JointSchedule, records, tokens)), firsts)
    joined = ExitViews.join([record.views(row[None], None) for record, row in zip(records, memory, strict=True)])
    return replace(joined, history=inputs.history)


def _outlook(found: Found | None, mode: Mode) -> Outlook | None:
    return None if found is None else Outlook(found, mode, (NOTHING_CHANGED,) * len(found.layout))
