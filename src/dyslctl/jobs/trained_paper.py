"""The modules of ``dysl-paper`` between memory and the bundle on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from dyslctl.artifacts.bundle import (
    Bundle,
    BundleHeader,
    TrainingInfo,
    check_belongs,
    load_bundle,
    save_bundle,
)
from dyslctl.artifacts.bundle_settings import Calibration
from dyslctl.artifacts.fingerprint import made_with
from dyslctl.artifacts.model_card import model_card
from dyslctl.artifacts.self_test import SelfTest
from dyslctl.artifacts.skip_profile import Guidance, SkipProfile
from dyslctl.backbone import Backbone
from dyslctl.dysl.guidance import GuidanceSettings
from dyslctl.dysl.skip_modules import SkipModules, SkipSizes
from dyslctl.errors import ArtifactError
from dyslctl.jobs.trained_modules import fill, partition_of, probe_skip_modules


@dataclass(frozen=True)
class TrainedModules:
    """A loaded ``dysl-paper`` bundle, ready to run.

    Attributes:
        modules: Adapters and controllers, in eval mode.
        header: What they were trained for and how.
        document: The bundle's guidance settings as they stand in its file.
        calibration: Where the thresholds come from, ``None`` before calibration.
    """

    modules: SkipModules
    header: BundleHeader
    document: Guidance = field(repr=False)
    calibration: Calibration | None = None

    @property
    def guidance(self) -> GuidanceSettings:
        """The settings as a run-time value.

        Raises:
            ArtifactError: If the thresholds are not calibrated yet.
        """
        return self.document.settings()

    @property
    def execute_horizon(self) -> int | None:
        """Actions executed before the next inference where the thresholds were fitted, if that is known."""
        return None if self.calibration is None else self.calibration.execute_horizon


def new_modules(profile: SkipProfile, hidden_size: int, seed: int) -> SkipModules:
    """Untrained modules for ``profile``; the same ones for the same seed."""
    sizes = SkipSizes(
        hidden_size=hidden_size,
        adapter_rank=profile.modules.adapter_width,
        controller_width=profile.modules.controller_width,
        pool=profile.modules.pool,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SkipModules(partition_of(profile), sizes)


def save_modules(
    folder: Path, modules: SkipModules, profile: SkipProfile, training: TrainingInfo, command: str
) -> Path:
    """Write ``modules`` as the bundle ``folder``, with the profile's guidance settings; returns the weights' path.

    Raises:
        EnvironmentMismatch: If it cannot be written; an older bundle is then still there.
    """
    modules = modules.cpu()
    bundle = Bundle(
        header=BundleHeader.of(profile, training, made_with(command, training.seed)),
        tensors=modules.state_dict(),
        self_test=SelfTest.record(lambda hidden: probe_skip_modules(modules, hidden), modules.sizes.hidden_size),
        settings=profile.guidance,
    )
    return save_bundle(folder, bundle, model_card(bundle, profile.suite))


def load_modules(folder: Path, profile: SkipProfile, backbone: Backbone) -> TrainedModules:
    """Load the bundle ``folder`` beside ``backbone``: right profile, right tensors, and its self-test still holds.

    Raises:
        ArtifactError: If it is missing, damaged, of another method, belongs to another profile or backbone, or answers
            differently than when it was saved.
    """
    bundle = load_bundle(folder)
    guidance = bundle.settings
    if not isinstance(guidance, Guidance):
        raise ArtifactError(
            f"{folder}: expected the modules of dysl-paper, found those of {bundle.header.training.method}",
            hint="dyslctl distill --method dysl-paper makes them",
        )
    check_belongs(bundle.header, profile, folder)
    _check_guidance(guidance, profile, backbone, folder)
    hidden_size = backbone.spec.hidden_size
    modules = fill(lambda: new_modules(profile, hidden_size, seed=0), bundle, folder, probe_skip_modules, backbone)
    return TrainedModules(modules, bundle.header, guidance, bundle.calibration)


def _check_guidance(guidance: Guidance, profile: SkipProfile, backbone: Backbone, folder: Path) -> None:
    """Guidance may be edited by hand: its layers and its length must be those of this model."""
    dynamic = partition_of(profile).dynamic_layers
    if stray := sorted(set(guidance.tau_by_layer) - set(dynamic)):
        raise ArtifactError(
            f"{folder}: guidance.tau_by_layer names layer {stray[0]}, expected dynamic layers only: {list(dynamic)}"
        )
    if guidance.scale is not None and len(guidance.scale) != backbone.spec.action_dim:
        raise ArtifactError(
            f"{folder}: guidance.scale has {len(guidance.scale)} numbers, expected {backbone.spec.action_dim}, one an "
            "action dimension"
        )
