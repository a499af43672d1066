"""What a stage of any method's training did: its loss curve, in a file and as the bundle's header tells it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from torch import nn

from dyslctl.artifacts.bundle import TrainingInfo
from dyslctl.artifacts.files import write_json
from dyslctl.trained import Trained

Stage = Literal[1, 2]
CHECKPOINT, CURVE = "checkpoint.safetensors", "curve.json"
CURVE_SCHEMA = "dyslctl.curve/1"


class StageSettings(Protocol):
    """What the settings of any method's training say of a stage."""

    @property
    def stage(self) -> Stage:
        """Which one."""

    @property
    def steps(self) -> int:
        """Optimiser steps."""

    @property
    def seed(self) -> int:
        """Of the training."""


@dataclass(frozen=True)
class DistillResult:
    """What a stage did.

    Attributes:
        loss_first, loss_last: Mean over the first and the last tenth of the loss curve.
        trainable_parameters: Parameters that learnt.
        bundle_path: The bundle's folder.
        seconds: Wall-clock time of this call; a resumed training counts its last part.
        curve: One entry a logged step: ``step``, ``loss`` and its parts.
    """

    stage: Stage
    steps: int
    loss_first: float
    loss_last: float
    trainable_parameters: int
    bundle_path: Path
    seconds: float
    curve: list[dict[str, float]]

    @classmethod
    def of(
        cls,
        settings: StageSettings,
        curve: list[dict[str, float]],
        learnt: Iterable[nn.Module],
        bundle: Path,
        begin: float,
    ) -> DistillResult:
        """A stage that ends now; ``learnt`` are the modules that were trained, ``begin`` is ``time.perf_counter``'s."""
        return cls(
            stage=settings.stage,
            steps=settings.steps,
            loss_first=curve_mean(curve, first=True),
            loss_last=curve_mean(curve, first=False),
            trainable_parameters=sum(p.numel() for module in learnt for p in module.parameters()),
            bundle_path=bundle,
            seconds=time.perf_counter() - begin,
            curve=curve,
        )


def save_curve(out: Path, curve: list[dict[str, float]]) -> None:
    """Write the loss curve into the folder ``out``.

    Raises:
        EnvironmentMismatch: If it cannot be written.
    """
    write_json(out / CURVE, {"schema": CURVE_SCHEMA, "curve": curve})


def training_info(
    settings: StageSettings,
    method: Trained,
    samples: int,
    curve: list[dict[str, float]],
    *,
    token_subsets: bool = False,
) -> TrainingInfo:
    """The training of ``method`` as its bundle's header tells it."""
    return TrainingInfo(
        stage=settings.stage,
        steps=settings.steps,
        seed=settings.seed,
        method=method,
        samples=samples,
        token_subsets=token_subsets,
        loss_first=curve_mean(curve, first=True),
        loss_last=curve_mean(curve, first=False),
    )


def curve_mean(curve: list[dict[str, float]], *, first: bool) -> float:
    """Mean loss of the first or of the last tenth of a loss curve."""
    losses = [entry["loss"] for entry in curve]
    tenth = max(1, len(losses) // 10)
    return float(np.mean(losses[:tenth] if first else losses[-tenth:]))
