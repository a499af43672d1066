"""The exits of ``deer`` between memory and the bundle on disk, with what their thresholds are solved from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from dyslctl.artifacts.bundle import BundleHeader, TrainingInfo, load_bundle
from dyslctl.artifacts.bundle_settings import Calibration, Consistency
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.backbone import Backbone
from dyslctl.dysl.exits import ExitModules
from dyslctl.errors import ArtifactError
from dyslctl.jobs.trained_exits import restore_exits, save_exits

DELTAS = "deltas"
"""The name of their tensor in the bundle."""


@dataclass(frozen=True)
class TrainedDeer:
    """A loaded ``deer`` bundle, ready to run.

    Attributes:
        modules: The exits, in eval mode.
        deltas: ``[n, E - 1]`` float64, how far each exit's action is from that of the exit before, on held-out states.
        header: What they were trained for and how.
        execute_horizon: Actions executed before the next inference; the differences are over these.
        share: Of the layers, that the thresholds are to run on the held-out states.
        calibration: Where ``share`` comes from, ``None`` before calibration.
    """

    modules: ExitModules
    deltas: np.ndarray = field(repr=False)
    header: BundleHeader
    execute_horizon: int
    share: float
    calibration: Calibration | None = None


def save_deer(
    folder: Path,
    modules: ExitModules,
    execute_horizon: int,
    profile: SkipProfile,
    training: TrainingInfo,
    command: str,
    *,
    deltas: Tensor,
) -> Path:
    """:func:`save_exits`, with the differences ``deltas`` ``[n, E - 1]`` beside the weights."""
    beside = {DELTAS: deltas}
    return save_exits(folder, modules, execute_horizon, profile, training, command, Consistency(), beside)


def load_deer(folder: Path, profile: SkipProfile, backbone: Backbone) -> TrainedDeer:
    """Load the bundle ``folder`` beside ``backbone``: right profile, right tensors, and its self-test still holds.

    Raises:
        ArtifactError: If it is missing, damaged, of another method, belongs to another profile or backbone, or answers
            differently than when it was saved.
    """
    bundle = load_bundle(folder)
    settings, tensors = bundle.settings, dict(bundle.tensors)
    deltas = tensors.pop(DELTAS, None)
    if not isinstance(settings, Consistency) or deltas is None:
        raise ArtifactError(
            f"{folder}: expected the exits of deer, found the modules of {bundle.header.training.method}",
            hint="dyslctl distill --method deer makes them",
        )
    modules, executed = restore_exits(replace(bundle, tensors=tensors), folder, profile, backbone)
    if deltas.ndim != 2 or deltas.shape[1] != len(modules.exits) - 1 or not len(deltas):
        raise ArtifactError(
            f"{folder}: {DELTAS} has the shape {tuple(deltas.shape)}, expected [n, {len(modules.exits) - 1}]",
            hint="dyslctl distill --method deer makes the bundle again",
        )
    return TrainedDeer(modules, deltas.double().numpy(), bundle.header, executed, settings.share, bundle.calibration)
