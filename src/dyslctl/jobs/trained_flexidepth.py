"""The modules of ``flexidepth`` and ``flexidepth-tokens`` between memory and the bundle on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from dyslctl.artifacts.bundle import (
    Bundle,
    BundleHeader,
    RouterSizes,
    TrainingInfo,
    check_belongs,
    load_bundle,
    save_bundle,
)
from dyslctl.artifacts.bundle_settings import Calibration, Routing
from dyslctl.artifacts.fingerprint import made_with
from dyslctl.artifacts.model_card import model_card
from dyslctl.artifacts.self_test import SelfTest
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.backbone import Backbone
from dyslctl.baselines.flexidepth import flexidepth_modules, router_width
from dyslctl.dysl.skip_modules import SkipModules, SkipSizes
from dyslctl.errors import ArtifactError
from dyslctl.jobs.trained_modules import fill, probe_skip_modules

RouterMethod = Literal["flexidepth", "flexidepth-tokens"]
"""Whether a router decides once for all tokens, or about each of them."""


@dataclass(frozen=True)
class TrainedRouters:
    """A loaded bundle of either method, ready to run.

    Attributes:
        modules: Adapters and routers, in eval mode.
        header: What they were trained for and how.
        tau: The skip probability above which a layer is skipped.
        lenience: Logits that every router is more willing to skip by.
        calibration: Where ``lenience`` comes from, ``None`` before calibration.
    """

    modules: SkipModules
    header: BundleHeader
    tau: float
    lenience: float
    calibration: Calibration | None = None


def default_sizes(profile: SkipProfile, hidden_size: int) -> SkipSizes:
    """Adapters as wide as the profile asks for, and routers of their own width."""
    return SkipSizes(hidden_size, profile.modules.adapter_width, router_width(hidden_size), profile.modules.pool)


def new_routers(num_layers: int, sizes: SkipSizes, seed: int) -> SkipModules:
    """Untrained modules; the same ones for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return flexidepth_modules(num_layers, sizes)


def save_routers(
    folder: Path, modules: SkipModules, profile: SkipProfile, training: TrainingInfo, *, command: str
) -> Path:
    """Write ``modules`` as the bundle ``folder``; routers decide at 0.5. Returns the weights' path.

    Raises:
        EnvironmentMismatch: If it cannot be written; an older bundle is then still there.
    """
    modules, sizes = modules.cpu(), modules.sizes
    widths = RouterSizes(adapter_width=sizes.adapter_rank, router_width=sizes.controller_width, pool=sizes.pool)
    bundle = Bundle(
        header=BundleHeader.of(profile, training, made_with(command, training.seed), widths),
        tensors=modules.state_dict(),
        self_test=SelfTest.record(lambda hidden: probe_skip_modules(modules, hidden), sizes.hidden_size),
        settings=Routing(),
    )
    return save_bundle(folder, bundle, model_card(bundle, profile.suite))


def load_routers(
    folder: Path, profile: SkipProfile, backbone: Backbone, method: RouterMethod = "flexidepth"
) -> TrainedRouters:
    """Load the bundle ``folder`` beside ``backbone``: right profile, right tensors, and its self-test still holds.

    Args:
        folder: Of the bundle.
        profile: Of the run.
        backbone: What the modules were trained for.
        method: What they were trained to decide about.

    Raises:
        ArtifactError: If it is missing, damaged, of another method, belongs to another profile or backbone, or answers
            differently than when it was saved.
    """
    bundle = load_bundle(folder)
    widths, settings = bundle.header.modules, bundle.settings
    made_by = bundle.header.training.method
    if not isinstance(widths, RouterSizes) or not isinstance(settings, Routing) or made_by != method:
        raise ArtifactError(
            f"{folder}: expected the routers of {method}, found the modules of {made_by}",
            hint=f"dyslctl distill --method {method} makes them",
        )
    check_belongs(bundle.header, profile, folder)
    sizes = SkipSizes(backbone.spec.hidden_size, widths.adapter_width, widths.router_width, widths.pool)
    num_layers = backbone.spec.num_layers
    modules = fill(lambda: new_routers(num_layers, sizes, seed=0), bundle, folder, probe_skip_modules, backbone)
    return TrainedRouters(modules, bundle.header, settings.tau, settings.lenience, bundle.calibration)
