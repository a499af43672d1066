"""``distill --method flexidepth`` and ``flexidepth-tokens``: adapters and routers in one stage.

Backbone and head stay frozen. The two differ in what a router reads: all tokens pooled, or each by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.baselines.flexidepth import squared_layers
from dyslctl.baselines.flexidepth_tokens import TokenMix, require_token_skips
from dyslctl.dysl.distillation import MixSchedule, stage2_loss
from dyslctl.dysl.skip_modules import PUBLISHED_WIDTH, SkipModules
from dyslctl.jobs.dataset import Dataset, Part
from dyslctl.jobs.labelled import MixTraining, batches, drawn, scale_adapters
from dyslctl.jobs.single_stage import OneStage, Work, train_once
from dyslctl.jobs.stage_result import DistillResult
from dyslctl.jobs.trained_flexidepth import RouterMethod, default_sizes, new_routers, save_routers
from dyslctl.jobs.training import StepLoss, Trainee

MIXES: Mapping[RouterMethod, type[MixSchedule]] = {"flexidepth": MixSchedule, "flexidepth-tokens": TokenMix}
"""How training mixes a layer's two ways."""


@dataclass(frozen=True, kw_only=True)
class RouterTraining(OneStage, MixTraining):
    """Everything that decides what is learnt. Steps are as many as both stages of ``dysl-paper`` take together.

    Routers decide hard in training as they do at inference: after soft mixing, the published way, ``flexidepth`` solved
    nothing here (``docs/method.md``).
    """

    penalty_weight: float = 1e-3
    hard: bool = True

    @classmethod
    def default(cls, hidden_size: int, window: int = 1) -> RouterTraining:
        """As ``dysl-paper`` at published sizes, with FlexiDepth's penalty; ours for a model far below them."""
        how = batches(hidden_size, window)
        if hidden_size >= PUBLISHED_WIDTH:
            return cls(steps=37_000, **how)
        return cls(
            steps=1_100,
            **how,
            warmup=30,
            decay="linear",
            adapter_lr=2e-3,
            controller_lr=3e-3,
            penalty_weight=3e-4,
        )


def distill_flexidepth(work: Work, settings: RouterTraining, method: RouterMethod = "flexidepth") -> DistillResult:
    """Train and write the bundle. Of the profile only the adapters' size plays a part, not what is static.

    Raises:
        ArtifactError: If the profile belongs to other weights, or the checkpoint is damaged.
        ConfigError: If training diverges, the checkpoint has other settings, or tokens are to skip layers of a backbone
            that runs them for all tokens only.
        EnvironmentMismatch: If a file cannot be written.
    """
    work.check(settings)
    if method == "flexidepth-tokens":
        require_token_skips(work.backbone)
    spec, profile = work.backbone.spec, work.profile
    modules = new_routers(spec.num_layers, default_sizes(profile, spec.hidden_size), settings.seed)
    modules = modules.to(work.backbone.device).train()
    identity = {**settings.identity(), "profile": profile.hash, "data": work.data.digest()}
    rates = [(modules.adapters, settings.adapter_lr), (modules.controllers, settings.controller_lr)]
    save = partial(save_routers, work.bundle, modules, profile, command=work.command)
    step_loss = router_step(work.backbone, modules, work.data, settings, MIXES[method])
    return train_once(work, method, settings, Trainee(modules, rates, identity), step_loss, save)


def router_step(
    backbone: Backbone, modules: SkipModules, data: Dataset, settings: RouterTraining, mix: type[MixSchedule]
) -> StepLoss:
    """Every layer is left as far as its router says; task loss and the square of the layers that run add up."""
    terms = settings.terms()
    layers = modules.partition.dynamic_layers

    def loss(step: int, part: Part) -> tuple[Tensor, Mapping[str, float]]:
        batch = drawn(data, settings, step, part, backbone)
        found = stage2_loss(backbone, modules, batch.inputs, batch.target, layers, terms, squared_layers, mix)
        return found.total, found.parts()

    scale_adapters(backbone, modules, data, settings)
    return loss
