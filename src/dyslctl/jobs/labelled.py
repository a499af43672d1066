"""What trainings on samples with an action to learn have in common: their settings, what a step draws, the scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from dyslctl.backbone import Backbone
from dyslctl.dysl.distillation import Stage2Settings, calibrate_scales
from dyslctl.dysl.skip_modules import PUBLISHED_WIDTH, SkipModules
from dyslctl.dysl.states import residual_states
from dyslctl.errors import ConfigError
from dyslctl.jobs.dataset import Batch, Dataset, Part
from dyslctl.jobs.training import Optimization

SCALE_BATCHES = 2
"""Batches on which the adapters' output scales are measured."""


@dataclass(frozen=True, kw_only=True)
class LabelledTraining(Optimization):
    """What all trainings on samples with an action to learn have in common.

    A head with a memory learns on windows, as it did itself: see :func:`batches`.

    Attributes:
        batch_size: Samples of a step, or windows.
        window: Consecutive inferences that are learnt from together. A head with a memory then remembers what the
            skipping model did; alone, an inference has the memory that the full model had.
        gradient_checkpointing: Compute each layer once more instead of keeping its inside for the gradient.
        seed: Of initial weights, and of what is drawn.
    """

    batch_size: int = 32
    window: int = 1
    gradient_checkpointing: bool = False
    seed: int = 0

    def require_memory(self, backbone: Backbone) -> None:
        """A window needs a head to which it matters what came before.

        Raises:
            ConfigError: If that of ``backbone`` remembers nothing.
        """
        if self.window > 1 and backbone.spec.window == 1:
            name = type(backbone).__name__
            raise ConfigError(
                f"distill.window: expected 1 for {name}, whose head remembers nothing, found {self.window}",
                hint="leave distill.window out",
            )


@dataclass(frozen=True, kw_only=True)
class MixTraining(LabelledTraining):
    """Settings of a training that mixes what a layer does with what skipping it does (Eq. 5).

    Attributes:
        adapter_lr: Learning rate of the adapters.
        controller_lr: Learning rate of the controllers or routers.
        penalty_weight: Weight of executed layers against the task loss: the paper's lambda, Eq. 6.
        kd_weight: Weight of the distance to the full model's action; the paper has no such term.
        hard: Decide as inference does, straight-through, instead of mixing softly (Eq. 5).
    """

    adapter_lr: float = 1e-4
    controller_lr: float = 1e-4
    penalty_weight: float = 1e-2
    kd_weight: float = 0.0
    hard: bool = False

    def terms(self) -> Stage2Settings:
        """What it minimises."""
        return Stage2Settings(
            self.penalty_weight,
            kd_weight=self.kd_weight,
            hard=self.hard,
            window=self.window,
            recompute=self.gradient_checkpointing,
        )


class Batches(TypedDict):
    """``batch_size`` and ``window`` of :class:`LabelledTraining`."""

    batch_size: int
    window: int


def batches(hidden_size: int, window: int) -> Batches:
    """What a step learns from: as the paper (Tables 8-10), or, for a model far below the published sizes, ours.

    ``window``: the backbone's.
    """
    if hidden_size >= PUBLISHED_WIDTH:
        return Batches(batch_size=32 if window == 1 else 24, window=window)
    return Batches(batch_size=64 if window == 1 else 8, window=window)


def drawn(data: Dataset, settings: LabelledTraining, step: int, part: Part, backbone: Backbone) -> Batch:
    """What ``part`` of ``step`` learns from, where ``backbone`` is."""
    return data.batch(settings.seed, step, settings.batch_size, part, settings.window).to(backbone.device)


def scale_adapters(backbone: Backbone, modules: SkipModules, data: Dataset, settings: LabelledTraining) -> None:
    """Set the adapters' output scales by the first :data:`SCALE_BATCHES` steps.

    All parts in every process: the scales must not depend on how many there are.
    """
    batches = (
        drawn(data, settings, step, part, backbone) for step in range(SCALE_BATCHES) for part in settings.parts()
    )
    calibrate_scales(modules, ((residual_states(backbone, batch.inputs)[0], None) for batch in batches))
