"""``distill --method mole``: a router before layer 0, in one stage. Backbone and head stay frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.baselines.mole import (
    LayerRouter,
    MixtureSizes,
    MoleSettings,
    layers_kept,
    mole_loss,
    require_pictures,
)
from dyslctl.dysl.skip_modules import PUBLISHED_WIDTH
from dyslctl.jobs.dataset import Dataset, Part
from dyslctl.jobs.labelled import batches, drawn
from dyslctl.jobs.single_stage import OneStage, Work, train_once
from dyslctl.jobs.stage_result import DistillResult
from dyslctl.jobs.trained_mole import new_router, save_router
from dyslctl.jobs.training import StepLoss, Trainee


@dataclass(frozen=True, kw_only=True)
class MixtureTraining(OneStage):
    """Everything that decides what is learnt; weights and share are the public code's.

    Attributes:
        controller_lr: Learning rate of the router.
        kept_share: Of the layers, that run in training, and afterwards until calibration says otherwise.
        balance_weight: Weight of the balance term.
        kd_weight: Weight of the distance to the full model's last hidden state.
    """

    controller_lr: float = 1e-4
    kept_share: float = 18 / 32
    balance_weight: float = 0.01
    kd_weight: float = 0.5

    @classmethod
    def default(cls, hidden_size: int, window: int = 1) -> MixtureTraining:
        """Settings for a model of the published sizes, or for one far below them."""
        how = batches(hidden_size, window)
        if hidden_size >= PUBLISHED_WIDTH:
            return cls(steps=37_000, **how)
        return cls(steps=1_100, **how, warmup=30, decay="linear", controller_lr=1e-3)


def distill_mole(work: Work, settings: MixtureTraining) -> DistillResult:
    """Train and write the bundle. The profile says whose weights; its static layers play no part.

    Raises:
        ArtifactError: If the profile belongs to other weights, or the checkpoint is damaged.
        ConfigError: If training diverges, the checkpoint has other settings, or the router would see no picture.
        EnvironmentMismatch: If a file cannot be written.
    """
    work.check(settings)
    require_pictures(work.backbone)
    spec = work.backbone.spec
    sizes = MixtureSizes.default(spec.hidden_size, spec.num_layers)
    router = new_router(sizes, settings.seed).to(work.backbone.device).train()
    identity = {**settings.identity(), "profile": work.profile.hash, "data": work.data.digest()}
    trainee = Trainee(router, [(router, settings.controller_lr)], identity)
    save = partial(save_router, work.bundle, router, work.profile, settings.kept_share, command=work.command)
    return train_once(work, "mole", settings, trainee, mixture_step(work.backbone, router, work.data, settings), save)


def mixture_step(backbone: Backbone, router: LayerRouter, data: Dataset, settings: MixtureTraining) -> StepLoss:
    """Each sample through the layers that the router picks for it."""
    how = MoleSettings(
        layers_kept(settings.kept_share, backbone.spec.num_layers),
        settings.balance_weight,
        settings.kd_weight,
        window=settings.window,
        recompute=settings.gradient_checkpointing,
    )

    def loss(step: int, part: Part) -> tuple[Tensor, Mapping[str, float]]:
        batch = drawn(data, settings, step, part, backbone)
        found = mole_loss(backbone, router, batch.inputs, batch.target, how)
        parts = {"task": found.task, "balance": found.balance, "distance": found.distance}
        return found.total, {name: value.item() for name, value in parts.items()}

    return loss
