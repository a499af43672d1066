"""``distill --method flexidepth``: adapters and routers in one stage. Backbone and head stay frozen."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dyslctl.artifacts.files import make_folder, write_json
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.backbone import Backbone
from dyslctl.baselines.flexidepth import squared_layers
from dyslctl.dysl.distillation import Stage2Settings, calibrate_scales, stage2_loss
from dyslctl.dysl.skip_modules import SkipModules
from dyslctl.dysl.states import residual_states
from dyslctl.jobs import distributed
from dyslctl.jobs.dataset import Dataset, Part
from dyslctl.jobs.distill import (
    CHECKPOINT,
    CURVE,
    CURVE_SCHEMA,
    PUBLISHED_WIDTH,
    SCALE_BATCHES,
    DistillResult,
    Stage,
    training_info,
)
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.jobs.trained_flexidepth import default_sizes, new_routers, save_routers
from dyslctl.jobs.training import Optimization, StepLoss, Trainee, require_float32, train


@dataclass(frozen=True, kw_only=True)
class RouterTraining(Optimization):
    """Everything that decides what is learnt. Steps are as many as both stages of ``dysl-paper`` take together.

    Attributes:
        stage: Always 2: what decides is trained.
        batch_size: Samples of a step.
        adapter_lr: Learning rate of the adapters.
        controller_lr: Learning rate of the routers.
        penalty_weight: Weight of ``L_skip`` against the task loss.
        kd_weight: Weight of the distance to the full model's action; the paper has no such term.
        hard: Decide as inference does, straight-through, instead of mixing softly.
        gradient_checkpointing: Compute each layer once more instead of keeping its inside for the gradient.
        seed: Of initial weights and sample order.
    """

    stage: Stage = 2
    batch_size: int = 32
    adapter_lr: float = 1e-4
    controller_lr: float = 1e-4
    penalty_weight: float = 1e-3
    kd_weight: float = 0.0
    hard: bool = False
    gradient_checkpointing: bool = False
    seed: int = 0

    @classmethod
    def default(cls, hidden_size: int) -> RouterTraining:
        """As ``dysl-paper`` at published sizes, with FlexiDepth's penalty; ours for a model far below them."""
        if hidden_size >= PUBLISHED_WIDTH:
            return cls(steps=37_000)
        return cls(
            steps=1_100,
            batch_size=64,
            warmup=30,
            decay="linear",
            adapter_lr=2e-3,
            controller_lr=3e-3,
            penalty_weight=3e-4,
        )


def distill_flexidepth(
    backbone: Backbone,
    profile: SkipProfile,
    data: Dataset,
    settings: RouterTraining,
    *,
    out: Path,
    bundle: Path,
    resume: bool = False,
    command: str = "dyslctl distill --method flexidepth",
    progress: Progress = NO_PROGRESS,
) -> DistillResult:
    """Train and write the bundle.

    Args:
        backbone: The frozen model.
        profile: The sizes of the adapters; which layers it calls static plays no part.
        data: States to learn from.
        settings: How.
        out: Folder of the checkpoint and the loss curve.
        bundle: Folder of the bundle to write.
        resume: Continue from the checkpoint in ``out``, to the same weights as a training without a break.
        command: What the user typed, for the artifact.
        progress: Told about each step.

    Raises:
        ArtifactError: If ``profile`` belongs to other weights, or the checkpoint is damaged.
        ConfigError: If training diverges, or the checkpoint has other settings.
        EnvironmentMismatch: If a file cannot be written.
    """
    begin, spec = time.perf_counter(), backbone.spec
    profile.check_backbone(spec)
    require_float32(backbone, settings)
    settings.require_equal_parts(settings.batch_size)
    modules = new_routers(spec.num_layers, default_sizes(profile, spec.hidden_size), settings.seed)
    modules = modules.to(backbone.device).train()
    identity: dict[str, Any] = {**settings.identity(), "profile": profile.hash, "data": data.digest()}
    rates: list[tuple[nn.Module, float]] = [
        (modules.adapters, settings.adapter_lr),
        (modules.controllers, settings.controller_lr),
    ]
    step_loss = router_step(backbone, modules, data, settings)
    checkpoint = make_folder(out) / CHECKPOINT
    trainee = Trainee(modules, rates, identity)
    curve = train(trainee, settings, step_loss, backbone.device, checkpoint, resume=resume, progress=progress)
    if distributed.leads():
        write_json(out / CURVE, {"schema": CURVE_SCHEMA, "curve": curve})
        training = training_info(settings, "flexidepth", len(data), curve)
        save_routers(bundle, modules.eval(), profile, training, command)
    return DistillResult.of(settings, curve, [modules.adapters, modules.controllers], bundle, begin)


def router_step(backbone: Backbone, modules: SkipModules, data: Dataset, settings: RouterTraining) -> StepLoss:
    """Every layer is left as far as its router says; task loss and the square of the layers that run add up."""
    terms = Stage2Settings(
        settings.penalty_weight,
        kd_weight=settings.kd_weight,
        hard=settings.hard,
        recompute=settings.gradient_checkpointing,
    )
    layers = modules.partition.dynamic_layers

    def states(step: int, part: Part) -> list[Tensor]:
        batch = data.batch(settings.seed, step, settings.batch_size, part).to(backbone.device)
        return residual_states(backbone, batch.inputs)[0]

    def loss(step: int, part: Part) -> tuple[Tensor, Mapping[str, float]]:
        batch = data.batch(settings.seed, step, settings.batch_size, part).to(backbone.device)
        found = stage2_loss(backbone, modules, batch.inputs, batch.target, layers, terms, squared_layers)
        gates = torch.stack(list(found.gates.values())).mean()
        parts = {"task": found.task, "penalty": found.penalty, "gate": gates}
        return found.total, {name: value.item() for name, value in parts.items()}

    # All parts in every process: the scales must not depend on how many there are.
    calibrate_scales(modules, ((states(s, part), None) for s in range(SCALE_BATCHES) for part in settings.parts()))
    return loss
