"""``distill --method dysl-paper``: adapters, then controllers too (section 3.4). Backbone and head stay frozen."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dyslctl.artifacts.bundle import weights_digest
from dyslctl.artifacts.files import make_folder
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.backbone import Backbone
from dyslctl.dysl.distillation import (
    Norm,
    SamplingLaw,
    sample_exits,
    stage1_loss,
    stage2_loss,
)
from dyslctl.dysl.skip_modules import PUBLISHED_WIDTH, SkipModules
from dyslctl.dysl.states import residual_states
from dyslctl.errors import ConfigError
from dyslctl.jobs import distributed
from dyslctl.jobs.dataset import Dataset, Part
from dyslctl.jobs.labelled import MixTraining, batches, drawn, scale_adapters
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.jobs.stage_result import CHECKPOINT, DistillResult, Stage, save_curve, training_info
from dyslctl.jobs.trained_paper import load_modules, new_modules, save_modules
from dyslctl.jobs.training import StepLoss, Trainee, require_float32, train

EXITS = 1
"""Sets the draw of a step's exits apart from the draw of its samples."""


@dataclass(frozen=True, kw_only=True)
class DistillSettings(MixTraining):
    """Everything that decides what a stage learns. The defaults are the paper's for OpenVLA-OFT (Table 10).

    In stage 1 no gradient goes through a layer, so ``gradient_checkpointing`` is of stage 2.

    Attributes:
        stage: 1 = adapters alone (Eq. 4), 2 = adapters and controllers (Eq. 5-6).
        norm: How stage 1 measures the distance of hidden states.
        law: How stage 2 draws the layer at which a segment is left.
        from_scratch: There is no stage 1: stage 2 starts from untrained adapters. The paper finds that its controllers
            then stay closed (Table 4).
    """

    stage: Stage
    norm: Norm = "fro_rms"
    law: SamplingLaw = "harmonic"
    from_scratch: bool = False

    @classmethod
    def default(cls, stage: Stage, hidden_size: int, window: int = 1) -> DistillSettings:
        """The paper's settings, or, for a model far below the published sizes, ours; ``window``: the backbone's."""
        how = batches(hidden_size, window)
        if hidden_size >= PUBLISHED_WIDTH:
            return cls(stage=stage, steps=7_693 if stage == 1 else 29_307, **how)
        return cls(
            stage=stage,
            steps=500 if stage == 1 else 600,
            **how,
            warmup=30,
            decay="linear",
            adapter_lr=2e-3 if stage == 1 else 1e-3,
            controller_lr=3e-3,
            penalty_weight=2e-3,
        )


def distill_paper(
    backbone: Backbone,
    profile: SkipProfile,
    data: Dataset,
    settings: DistillSettings,
    *,
    out: Path,
    bundle: Path,
    init: Path | None = None,
    resume: bool = False,
    command: str = "dyslctl distill",
    progress: Progress = NO_PROGRESS,
) -> DistillResult:
    """Train one stage and write its bundle.

    Args:
        backbone: The frozen model.
        profile: Which layers are dynamic, and the sizes of their modules.
        data: States to learn from.
        settings: How.
        out: Folder of the checkpoint and the loss curve.
        bundle: Folder of the bundle to write.
        init: Bundle of stage 1 that stage 2 starts from.
        resume: Continue from the checkpoint in ``out``, to the same weights as a training without a break.
        command: What the user typed, for the artifact.
        progress: Told about each step.

    Raises:
        ArtifactError: If ``profile`` or ``init`` belongs to other weights, or the checkpoint is damaged.
        ConfigError: If stage 2 has nothing to start from, training diverges, or the checkpoint has other settings.
        EnvironmentMismatch: If a file cannot be written.
    """
    begin = time.perf_counter()
    profile.check_backbone(backbone.spec)
    settings.require_equal_parts(settings.batch_size)
    settings.require_memory(backbone)
    distributed.wait()  # for the leader's bundle of stage 1
    modules = _start(backbone, profile, settings, init).train()
    step_loss = (stage1_step if settings.stage == 1 else stage2_step)(backbone, modules, data, settings)
    trainee = Trainee(modules, _rates(modules, settings), _identity(settings, profile, data, init))
    checkpoint = make_folder(out) / CHECKPOINT
    curve = train(trainee, settings, step_loss, backbone.device, checkpoint, resume=resume, progress=progress)
    if distributed.leads():
        save_curve(out, curve)
        training = training_info(settings, "dysl-paper", len(data), curve)
        save_modules(bundle, modules.eval(), profile, training, command)
    return DistillResult.of(settings, curve, [module for module, _ in trainee.rates], bundle, begin)


def _start(backbone: Backbone, profile: SkipProfile, settings: DistillSettings, init: Path | None) -> SkipModules:
    """Stage 1 begins with identities, stage 2 with the adapters of stage 1."""
    require_float32(backbone, settings)
    if settings.stage == 2 and init is not None and init.exists():
        return load_modules(init, profile, backbone).modules.float()
    if settings.stage == 2 and not settings.from_scratch:
        raise ConfigError(
            f"stage 2 starts from the adapters of stage 1, but there is no bundle at {init}",
            hint="dyslctl distill --stage 1 --method dysl-paper comes first",
        )
    return new_modules(profile, backbone.spec.hidden_size, settings.seed).to(backbone.device)


def _rates(modules: SkipModules, settings: DistillSettings) -> list[tuple[nn.Module, float]]:
    rates: list[tuple[nn.Module, float]] = [(modules.adapters, settings.adapter_lr)]
    return rates if settings.stage == 1 else [*rates, (modules.controllers, settings.controller_lr)]


def _identity(settings: DistillSettings, profile: SkipProfile, data: Dataset, init: Path | None) -> dict[str, Any]:
    """What must not change between an interruption and its resume."""
    identity = {**settings.identity(), "profile": profile.hash, "data": data.digest()}
    if settings.stage == 2 and init is not None and init.exists():
        identity["stage1"] = weights_digest(init)
    return identity


def stage1_step(backbone: Backbone, modules: SkipModules, data: Dataset, settings: DistillSettings) -> StepLoss:
    """Eq. 4: every adapter reproduces the input of its next static layer. One frozen pass gives all targets."""

    def loss(step: int, part: Part) -> tuple[Tensor, Mapping[str, float]]:
        states, _ = residual_states(backbone, drawn(data, settings, step, part, backbone).inputs)
        by_layer = stage1_loss(modules, states, None, norm=settings.norm)
        return torch.stack(list(by_layer.values())).sum(), {}

    scale_adapters(backbone, modules, data, settings)
    return loss


def stage2_step(backbone: Backbone, modules: SkipModules, data: Dataset, settings: DistillSettings) -> StepLoss:
    """Eq. 5-6: in each segment one sampled layer is left as far as its controller says; task loss and layers add up."""
    terms = settings.terms()

    def loss(step: int, part: Part) -> tuple[Tensor, Mapping[str, float]]:
        batch = drawn(data, settings, step, part, backbone)
        exits = sample_exits(modules.partition, np.random.default_rng((settings.seed, step, EXITS)), settings.law)
        found = stage2_loss(backbone, modules, batch.inputs, batch.target, exits, terms)
        return found.total, found.parts()

    return loss
