"""Trained exits between memory and the bundle on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from dyslctl.artifacts.bundle import (
    Bundle,
    BundleHeader,
    ExitModuleSizes,
    TrainingInfo,
    check_belongs,
    load_bundle,
    save_bundle,
)
from dyslctl.artifacts.bundle_parts import Section
from dyslctl.artifacts.bundle_settings import Calibration, Exits
from dyslctl.artifacts.fingerprint import made_with
from dyslctl.artifacts.model_card import model_card
from dyslctl.artifacts.self_test import SelfTest
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.backbone import Backbone
from dyslctl.dysl.exit_policy import ExitSettings
from dyslctl.dysl.exits import ExitModules, ExitSizes
from dyslctl.dysl.partition import tail
from dyslctl.dysl.query_layout import POOLED
from dyslctl.errors import ArtifactError
from dyslctl.jobs.trained_modules import fill, partition_of

NOT_CALIBRATED = Exits()
NOTHING: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class TrainedExits:
    """A loaded bundle of ``dysl`` or ``static``, ready to run.

    Attributes:
        modules: Exits and planner, in eval mode.
        header: What they were trained for and how.
        execute_horizon: Actions executed before the next inference; they serve no other.
        document: The settings as they stand in the bundle's file.
        calibration: Where the tolerance comes from, ``None`` before calibration.
    """

    modules: ExitModules
    header: BundleHeader
    execute_horizon: int
    document: Exits = field(repr=False)
    calibration: Calibration | None = None

    @property
    def settings(self) -> ExitSettings:
        """The settings as a run-time value.

        Raises:
            ArtifactError: If the tolerance is not calibrated yet.
        """
        return self.document.settings()


def new_exits(profile: SkipProfile, exits: tuple[int, ...], sizes: ExitSizes, seed: int) -> ExitModules:
    """Untrained exits for ``profile``; the same ones for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ExitModules(tail(partition_of(profile)), exits, sizes)


def save_exits(
    folder: Path,
    modules: ExitModules,
    execute_horizon: int,
    profile: SkipProfile,
    training: TrainingInfo,
    command: str,
    settings: Section = NOT_CALIBRATED,
    beside: Mapping[str, Tensor] = NOTHING,
) -> Path:
    """Write ``modules`` as the bundle ``folder``; returns the weights' path.

    Args:
        folder: Of the bundle.
        modules: Trained.
        execute_horizon: With how many executed actions.
        profile: For which prefix of static layers.
        training: How.
        command: What the user typed.
        settings: What they run with; by default they are not calibrated yet.
        beside: Tensors to store with their weights.

    Raises:
        EnvironmentMismatch: If it cannot be written; an older bundle is then still there.
    """
    modules = modules.cpu()
    sizes = ExitModuleSizes(
        exits=modules.exits,
        adapter_width=modules.sizes.adapter_rank,
        planner_width=modules.sizes.planner_width,
        remembers=modules.sizes.remembers,
        execute_horizon=execute_horizon,
    )
    bundle = Bundle(
        header=BundleHeader.of(profile, training, made_with(command, training.seed), sizes),
        tensors={**modules.state_dict(), **beside},
        self_test=SelfTest.record(lambda hidden: probe(modules, hidden), modules.sizes.hidden_size),
        settings=settings,
    )
    return save_bundle(folder, bundle, model_card(bundle, profile.suite))


def load_exits(folder: Path, profile: SkipProfile, backbone: Backbone) -> TrainedExits:
    """Load the bundle ``folder`` beside ``backbone``: right profile, right tensors, and its self-test still holds.

    Raises:
        ArtifactError: If it is missing, damaged, of another method, belongs to another profile or backbone, or answers
            differently than when it was saved.
    """
    bundle = load_bundle(folder)
    settings = bundle.settings
    if not isinstance(settings, Exits):
        raise ArtifactError(
            f"{folder}: expected the exits of dysl, found the modules of {bundle.header.training.method}",
            hint="dyslctl distill makes them",
        )
    modules, executed = restore_exits(bundle, folder, profile, backbone)
    return TrainedExits(modules, bundle.header, executed, settings, bundle.calibration)


def restore_exits(bundle: Bundle, folder: Path, profile: SkipProfile, backbone: Backbone) -> tuple[ExitModules, int]:
    """The exits in ``bundle``, read from ``folder``, and the executed actions they serve.

    Raises:
        ArtifactError: If they are no exits, belong to another profile or backbone, or answer differently than when they
            were saved.
    """
    found = bundle.header.modules
    if not isinstance(found, ExitModuleSizes):
        raise ArtifactError(f"{folder}: expected exits, found {found}", hint="dyslctl distill makes them")
    check_belongs(bundle.header, profile, folder)
    sizes = ExitSizes.of(backbone.spec, found.adapter_width, found.planner_width, remembers=found.remembers)
    modules = fill(lambda: new_exits(profile, found.exits, sizes, seed=0), bundle, folder, probe, backbone)
    return modules, found.execute_horizon


@torch.no_grad()
def probe(modules: ExitModules, hidden: Tensor) -> Mapping[str, Tensor]:
    """What every module answers to ``hidden`` ``[1, T, H]``: the self-test of a bundle."""
    memory = torch.linspace(-1, 1, modules.sizes.memory)[None]
    slots = torch.arange(hidden.shape[1])[None] % modules.sizes.chunk_length
    answers = {f"adapter.{layer}": modules.adapter(layer)(hidden, memory, slots) for layer in modules.exits}
    features = torch.cat([hidden[:, :POOLED].flatten(1), memory], 1)
    return {**answers, "planner": modules.planner(features)}
