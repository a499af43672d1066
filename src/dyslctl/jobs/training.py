"""The optimisation loop of every training job: resumable to the same bits, and loud when it diverges.

Whatever a step draws (its samples, its sampled layers) derives from ``(seed, step)``, so a checkpoint is the modules,
the optimiser's moments and the step; there is no generator state to restore.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dyslctl.artifacts.files import atomic_path, reading
from dyslctl.backbone import Backbone
from dyslctl.errors import ArtifactError, ConfigError
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.plugins import did_you_mean

Precision = Literal["auto", "fp32", "bf16"]
Decay = Literal["constant", "linear", "cosine"]
CURVE_POINTS = 500
"""A long training keeps about so many points of its loss curve."""

StepLoss = Callable[[int], tuple[Tensor, Mapping[str, float]]]
"""Step -> the loss to minimise, a scalar, and its parts to log."""


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
    """

    steps: int
    warmup: int = 0
    decay: Decay = "constant"
    weight_decay: float = 0.01
    beta_2: float = 0.999
    clip: float = 1.0
    precision: Precision = "auto"
    checkpoint_every: int = 100

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
            raise ConfigError(f"distill has no setting '{unknown[0]}' for this method.{nearest}")
        return dataclasses.replace(self, **values)


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
) -> list[dict[str, float]]:
    """Minimise ``step_loss`` over ``how.steps`` steps, checkpointing to ``checkpoint``.

    Args:
        trainee: Trained in place.
        how: The optimisation.
        step_loss: The loss of a step; must depend on the step and the modules alone.
        device: Where the passes run.
        checkpoint: A safetensors file, replaced atomically.
        resume: Continue from ``checkpoint`` if it exists.
        progress: Told about each step and its loss.

    Returns:
        The loss curve: ``step``, ``loss`` and the parts that ``step_loss`` returned.

    Raises:
        ConfigError: If the loss or its gradient is not finite (the last checkpoint is kept), or ``checkpoint``
            belongs to a training with other settings.
        ArtifactError: If ``checkpoint`` is damaged.
    """
    optimizer = trainee.optimizer(how)
    done, curve = load_checkpoint(checkpoint, trainee, optimizer) if resume and checkpoint.exists() else (0, [])
    progress.start(how.steps, "training")
    progress.advance(done)
    for step in range(done, how.steps):
        loss, parts = _optimize(trainee, optimizer, how, step_loss, step, device)
        if step % max(1, how.steps // CURVE_POINTS) == 0 or step == how.steps - 1:
            curve.append({"step": step, "loss": loss, **parts})
        if (step + 1) % how.checkpoint_every == 0 or step == how.steps - 1:
            save_checkpoint(checkpoint, trainee, optimizer, step + 1, curve)
        progress.advance(1, loss=loss)
    progress.close()
    return curve


def _optimize(
    trainee: Trainee,
    optimizer: torch.optim.Optimizer,
    how: Optimization,
    step_loss: StepLoss,
    step: int,
    device: torch.device,
) -> tuple[float, Mapping[str, float]]:
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * how.rate(step)
    with autocast(how.precision, device):
        loss, parts = step_loss(step)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(trainee.modules.parameters(), how.clip)
    if not (torch.isfinite(loss) and torch.isfinite(norm)):
        raise ConfigError(
            f"training diverged at step {step}: loss {loss.item():g}, gradient norm {norm.item():g}",
            hint="lower the learning rate, or use --set distill.precision=fp32; the last checkpoint is kept",
        )
    optimizer.step()
    return loss.item(), parts


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


def save_checkpoint(
    path: Path, trainee: Trainee, optimizer: torch.optim.Optimizer, step: int, curve: list[dict[str, float]]
) -> None:
    """Write everything that the next step depends on, atomically.

    Raises:
        EnvironmentMismatch: If it cannot be written; the checkpoint before is then still there.
    """
    tensors = {f"module.{name}": tensor for name, tensor in trainee.modules.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"step": str(step), "curve": json.dumps(curve), "identity": _canonical(trainee.identity)}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(str(error)) from error


def load_checkpoint(
    path: Path, trainee: Trainee, optimizer: torch.optim.Optimizer
) -> tuple[int, list[dict[str, float]]]:
    """Bring modules and optimiser back to a checkpoint; returns the next step and the curve so far.

    Raises:
        ArtifactError: If it is damaged.
        ConfigError: If it belongs to a training with other settings.
    """
    hint = f"remove {path}, or repeat the command without --resume"
    try:
        with reading(path), safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        step, curve = int(metadata["step"]), json.loads(metadata["curve"])
        _check_identity(metadata["identity"], trainee.identity, path)
        trainee.modules.load_state_dict(_below(tensors, "module."))
        optimizer.load_state_dict({**optimizer.state_dict(), "state": _moments(_below(tensors, "optimizer."))})
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path} is truncated or damaged: {error}", hint) from error
    return step, curve


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _moments(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = tensor
    return moments


def _canonical(identity: Mapping[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)


def _check_identity(found: str, expected: Mapping[str, Any], path: Path) -> None:
    before, now = json.loads(found), json.loads(_canonical(expected))
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if changed:
        listing = "\n".join(f"  {key}: then {before.get(key)!r}, now {now.get(key)!r}" for key in changed)
        raise ConfigError(
            f"{path} belongs to a training with other settings:\n{listing}",
            hint="repeat the command with the settings of then, or without --resume to start over",
        )
