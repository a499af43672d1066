"""The optimisation loop of every training job: resumable to the same bits, and loud when it diverges.

Whatever a step draws (its samples, its sampled layers) derives from ``(seed, step)``, so a checkpoint is the modules,
the optimiser's moments and the step; there is no generator state to restore. For the same reason a step may be computed
in micro-batches, and by several processes: each part knows which of the step's samples are its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from dyslctl.backbone import Backbone
from dyslctl.errors import ConfigError
from dyslctl.jobs import distributed
from dyslctl.jobs.checkpoint import Curve, load_checkpoint, save_checkpoint
from dyslctl.jobs.dataset import Part
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.jobs.training_log import LogKind, open_log
from dyslctl.plugins import did_you_mean

Precision = Literal["auto", "fp32", "bf16"]
Decay = Literal["constant", "linear", "cosine"]
CURVE_POINTS = 500
"""A long training keeps about so many points of its loss curve."""

EXECUTION = frozenset({"accumulate", "checkpoint_every", "gradient_checkpointing", "log"})
"""Settings that say how a training is carried out, not what is learnt."""

StepLoss = Callable[[int, Part], tuple[Tensor, Mapping[str, float]]]
"""Step, and which part of its samples -> the loss to minimise, a scalar, mean over them, and its terms to log."""


@dataclass(frozen=True)
class Optimization:
    """How to optimise: AdamW, the paper's (Tables 8-10), with what it leaves unstated.

    Attributes:
        steps: Optimiser steps.
        warmup: Steps of linear warm-up.
        decay: Course of the learning rate after it; the paper's is constant.
        weight_decay: On matrices alone, not on norms and biases.
        beta_2: Memory of AdamW's second moments.
        clip: Largest gradient norm.
        precision: ``bf16`` runs the passes under autocast, ``auto`` does so where the hardware multiplies bf16.
        checkpoint_every: Steps between checkpoints.
        accumulate: Micro-batches that a process computes its samples of a step in, one after the other, adding up
            their gradients: a step learns the same, in less memory.
        log: Where every step's numbers go, in the folder of the checkpoint.
    """

    steps: int
    warmup: int = 0
    decay: Decay = "constant"
    weight_decay: float = 0.01
    beta_2: float = 0.999
    clip: float = 1.0
    precision: Precision = "auto"
    checkpoint_every: int = 100
    accumulate: int = 1
    log: LogKind = "none"

    def rate(self, step: int) -> float:
        """The learning rate of ``step`` as a factor: warm-up, then from 1 to 5 % as ``decay`` says."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        done = step / self.steps
        shape = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[self.decay]
        return warm * max(0.05, shape)

    def override(self, values: Mapping[str, Any]) -> Self:
        """A copy with ``values``, as ``--set distill.KEY=VALUE`` gives them.

        Raises:
            ConfigError: If a key is unknown.
        """
        known = [field.name for field in dataclasses.fields(self)]
        unknown = [key for key in values if key not in known]
        if unknown:
            nearest = did_you_mean(unknown[0], known)
            raise ConfigError(
                f"distill has no setting '{unknown[0]}' for this method.{nearest}",
                hint=f"it has {', '.join(known)}",
            )
        return dataclasses.replace(self, **values)

    def identity(self) -> dict[str, Any]:
        """What decides what is learnt: it must not change between an interruption and its resume."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in EXECUTION}

    def parts(self) -> list[Part]:
        """The parts of each step's samples: the micro-batches of every process."""
        count = self.accumulate * distributed.world_size()
        return [Part(index, count) for index in range(count)]

    def own_parts(self) -> list[Part]:
        """Those that this process computes."""
        first = self.accumulate * distributed.rank()
        return self.parts()[first : first + self.accumulate]

    def require_equal_parts(self, samples: int, setting: str = "batch_size") -> None:
        """Means over parts are the mean over a step's ``samples``, set by ``setting``, only if the parts are equal.

        Raises:
            ConfigError: If they cannot be.
        """
        processes, parts = distributed.world_size(), len(self.parts())
        if samples % parts:
            raise ConfigError(
                f"distill.{setting} is {samples}: as many samples cannot be cut into equal parts, {self.accumulate} "
                f"micro-batches in each of {processes} processes",
                hint=f"--set distill.{setting}={math.ceil(samples / parts) * parts}, or start another number of "
                "processes",
            )


@dataclass(frozen=True)
class Trainee:
    """What is trained.

    Attributes:
        modules: All of it; their state is what a checkpoint holds.
        rates: Module to learning rate, for each part of ``modules`` that learns.
        identity: What a checkpoint must agree with to be continued: settings, profile, data.
    """

    modules: nn.Module
    rates: Sequence[tuple[nn.Module, float]]
    identity: Mapping[str, Any] = field(default_factory=dict)

    def optimizer(self, how: Optimization) -> torch.optim.AdamW:
        """AdamW with two parameter groups for each rate: decayed matrices, and the rest."""
        groups: list[dict[str, Any]] = []
        for module, rate in self.rates:
            for decay, is_matrix in ((how.weight_decay, True), (0.0, False)):
                params = [p for p in module.parameters() if p.requires_grad and (p.ndim > 1) == is_matrix]
                if params:
                    groups.append({"params": params, "lr": rate, "base_lr": rate, "weight_decay": decay})
        return torch.optim.AdamW(groups, betas=(0.9, how.beta_2))


def train(
    trainee: Trainee,
    how: Optimization,
    step_loss: StepLoss,
    device: torch.device,
    checkpoint: Path,
    *,
    resume: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Curve:
    """Minimise ``step_loss`` over ``how.steps`` steps, checkpointing to ``checkpoint``.

    Processes that train together (:mod:`dyslctl.jobs.distributed`) all call this and come out with the same modules;
    the leader writes the files, which are there when this returns.

    Args:
        trainee: Trained in place.
        how: The optimisation.
        step_loss: The loss of a part of a step; must depend on the two and on the modules alone.
        device: Where the passes run.
        checkpoint: A safetensors file, replaced atomically.
        resume: Continue from ``checkpoint`` if it exists.
        progress: Told about each step and its loss.

    Returns:
        The loss curve: ``step``, ``loss`` and the terms that ``step_loss`` returned.

    Raises:
        ConfigError: If the loss or its gradient is not finite (the last checkpoint is kept), or ``checkpoint``
            belongs to a training with other settings.
        ArtifactError: If ``checkpoint`` is damaged.
        EnvironmentMismatch: If a file cannot be written, or the log needs a package that is not installed.
    """
    modules, identity, optimizer = trainee.modules, trainee.identity, trainee.optimizer(how)
    resumes = resume and checkpoint.exists()
    done, curve = load_checkpoint(checkpoint, modules, optimizer, identity) if resumes else (0, [])
    distributed.align(list(modules.state_dict().values()))
    log = open_log(how.log if distributed.leads() else "none", checkpoint.parent / how.log / checkpoint.stem, done)
    modules.zero_grad()  # What another training left in a part that does not learn would count in the clipped norm.
    progress.start(how.steps, "training")
    progress.advance(done)
    for step in range(done, how.steps):
        numbers, measures = _optimize(trainee, optimizer, how, step_loss, step, device)
        log.add(step, {**numbers, **measures})
        if step % max(1, how.steps // CURVE_POINTS) == 0 or step == how.steps - 1:
            curve.append({"step": step, **numbers})
        if distributed.leads() and ((step + 1) % how.checkpoint_every == 0 or step == how.steps - 1):
            save_checkpoint(checkpoint, modules, optimizer, identity, step + 1, curve)
        progress.advance(1, loss=numbers["loss"])
    progress.close()
    log.close()
    distributed.wait()
    return curve


def _optimize(
    trainee: Trainee,
    optimizer: torch.optim.Optimizer,
    how: Optimization,
    step_loss: StepLoss,
    step: int,
    device: torch.device,
) -> tuple[dict[str, float], dict[str, float]]:
    """One step: the loss and its terms, and what the optimiser did."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * how.rate(step)
    optimizer.zero_grad()
    numbers = _gradients(trainee, how, step_loss, step, device)
    norm = nn.utils.clip_grad_norm_(trainee.modules.parameters(), how.clip)
    if not (math.isfinite(numbers["loss"]) and torch.isfinite(norm)):
        raise ConfigError(
            f"training diverged at step {step}: loss {numbers['loss']:g}, gradient norm {norm.item():g}",
            hint="lower the learning rate, or use --set distill.precision=fp32; the last checkpoint is kept",
        )
    optimizer.step()
    return numbers, {"gradient_norm": norm.item(), "learning_rate": optimizer.param_groups[0]["lr"]}


def _gradients(
    trainee: Trainee, how: Optimization, step_loss: StepLoss, step: int, device: torch.device
) -> dict[str, float]:
    """Leave the gradient of the step's mean loss in the modules; returns that loss and its terms.

    ``mean over samples = mean over processes of the mean over their micro-batches``, for parts of equal size.
    """
    parts, rows = how.own_parts(), list[dict[str, float]]()
    for part in parts:
        with autocast(how.precision, device):
            loss, terms = step_loss(step, part)
        (loss / len(parts)).backward()  # type: ignore[no-untyped-call]
        rows.append({"loss": loss.item(), **terms})
    distributed.average([p.grad for p in trainee.modules.parameters() if p.grad is not None])
    means = [float(np.mean([row[name] for row in rows])) for name in rows[0]]
    return dict(zip(rows[0], distributed.average_numbers(means, device), strict=True))


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which the passes of a training run."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(precision, device))


def require_float32(backbone: Backbone, how: Optimization) -> None:
    """Trained modules learn in float32; only autocast bridges the gap to a backbone in another dtype.

    Raises:
        ConfigError: If there is such a gap and no autocast.
    """
    if backbone.dtype != torch.float32 and not uses_bf16(how.precision, backbone.device):
        raise ConfigError(
            f"skip modules learn in float32, and the backbone is in {backbone.dtype}".replace("torch.", ""),
            hint="--set model.dtype=float32, or --set distill.precision=bf16",
        )


def uses_bf16(precision: Precision, device: torch.device) -> bool:
    """Resolve ``auto``: bf16 pays where the hardware multiplies it, and costs time where it is emulated."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
