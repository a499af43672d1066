"""The router of ``mole`` between memory and the bundle on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dyslctl.artifacts.bundle import (
    Bundle,
    BundleHeader,
    LayerRouterSizes,
    TrainingInfo,
    check_belongs,
    load_bundle,
    save_bundle,
)
from dyslctl.artifacts.bundle_settings import Calibration, Mixture
from dyslctl.artifacts.fingerprint import made_with
from dyslctl.artifacts.model_card import model_card
from dyslctl.artifacts.self_test import SelfTest
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.backbone import Backbone
from dyslctl.baselines.mole import LayerRouter, MixtureSizes
from dyslctl.errors import ArtifactError
from dyslctl.jobs.trained_modules import fill


@dataclass(frozen=True)
class TrainedRouter:
    """A loaded ``mole`` bundle, ready to run.

    Attributes:
        router: In eval mode.
        header: What it was trained for and how.
        share: Of the layers, that run.
        calibration: Where ``share`` comes from, ``None`` before calibration.
    """

    router: LayerRouter
    header: BundleHeader
    share: float
    calibration: Calibration | None = None


def new_router(sizes: MixtureSizes, seed: int) -> LayerRouter:
    """An untrained router; the same one for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LayerRouter(sizes)


def save_router(
    folder: Path, router: LayerRouter, profile: SkipProfile, share: float, training: TrainingInfo, *, command: str
) -> Path:
    """Write ``router`` as the bundle ``folder``, to run ``share`` of the layers; returns the weights' path.

    Raises:
        EnvironmentMismatch: If it cannot be written; an older bundle is then still there.
    """
    router = router.cpu()
    sizes = LayerRouterSizes(layer_router_width=router.sizes.width)
    bundle = Bundle(
        header=BundleHeader.of(profile, training, made_with(command, training.seed), sizes),
        tensors=router.state_dict(),
        self_test=SelfTest.record(lambda hidden: probe(router, hidden), router.sizes.hidden_size),
        settings=Mixture(share=share),
    )
    return save_bundle(folder, bundle, model_card(bundle, profile.suite))


def load_router(folder: Path, profile: SkipProfile, backbone: Backbone) -> TrainedRouter:
    """Load the bundle ``folder`` beside ``backbone``: right profile, right tensors, and its self-test still holds.

    Raises:
        ArtifactError: If it is missing, damaged, of another method, belongs to another profile or backbone, or answers
            differently than when it was saved.
    """
    bundle = load_bundle(folder)
    found, settings, spec = bundle.header.modules, bundle.settings, backbone.spec
    if not isinstance(found, LayerRouterSizes) or not isinstance(settings, Mixture):
        raise ArtifactError(
            f"{folder}: expected the router of mole, found the modules of {bundle.header.training.method}",
            hint="dyslctl distill --method mole makes it",
        )
    check_belongs(bundle.header, profile, folder)
    sizes = MixtureSizes(spec.hidden_size, spec.num_layers, found.layer_router_width)
    router = fill(lambda: new_router(sizes, seed=0), bundle, folder, probe, backbone)
    return TrainedRouter(router, bundle.header, settings.share, bundle.calibration)


@torch.no_grad()
def probe(router: LayerRouter, hidden: Tensor) -> Mapping[str, Tensor]:
    """What the router answers to ``hidden`` ``[1, T, H]``, the first half seen and the rest said: a self-test."""
    vision = torch.arange(hidden.shape[1])[None] < hidden.shape[1] // 2
    return {"router": router(hidden, vision, ~vision)}
