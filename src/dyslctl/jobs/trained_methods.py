"""The methods that learn: what each finds in its bundle, how it is trained, and what it is charged for elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.backbone import Backbone, Workload
from dyslctl.devices.roofline import ModuleParams
from dyslctl.jobs.charges import AGREED, CONTROLLED, MIXED, PLANNED, ROUTED, Charge
from dyslctl.jobs.distill_exits import ExitTraining
from dyslctl.jobs.distill_flexidepth import RouterTraining
from dyslctl.jobs.distill_mole import MixtureTraining
from dyslctl.jobs.distill_paper import DistillSettings
from dyslctl.jobs.single_stage import OneStage
from dyslctl.jobs.trained_deer import load_deer
from dyslctl.jobs.trained_exits import load_exits
from dyslctl.jobs.trained_flexidepth import load_routers
from dyslctl.jobs.trained_mole import load_router
from dyslctl.jobs.trained_paper import load_modules
from dyslctl.jobs.training import Optimization
from dyslctl.method_assets import (
    DEER,
    DYSL,
    FLEXIDEPTH,
    FLEXIDEPTH_TOKENS,
    MOLE,
    PAPER,
    STATIC,
    Assets,
    BundleOf,
    ConsistencyAssets,
    ExitAssets,
    MixtureAssets,
    RouterAssets,
    SkipAssets,
)

Asset = TypeVar("Asset")


@dataclass(frozen=True)
class TrainedMethod(Generic[Asset]):
    """One entry of the table.

    Attributes:
        bundle: What the method finds in its bundle.
        load: Reads that from a folder, and refuses what belongs to another profile or backbone.
        settings: Those that its training reads.
        charge: For a prediction of its latency.
    """

    bundle: BundleOf[Asset]
    load: Callable[[Path, SkipProfile, Backbone], Asset]
    settings: type[Optimization]
    charge: Charge[Asset]

    @property
    def in_one_stage(self) -> bool:
        """Whether adapters and decisions are learnt together, in stage 2."""
        return issubclass(self.settings, OneStage)

    def params(self, assets: Assets, size: Workload) -> ModuleParams:
        """Parameters of what it runs beside the layers of a model of ``size``."""
        return self.charge.params(assets.bundle(self.bundle), size)


_TABLE: tuple[TrainedMethod[Any], ...] = (
    TrainedMethod[ExitAssets](DYSL, load_exits, ExitTraining, PLANNED),
    TrainedMethod[SkipAssets](PAPER, load_modules, DistillSettings, CONTROLLED),
    TrainedMethod[ExitAssets](STATIC, load_exits, ExitTraining, PLANNED),
    TrainedMethod[RouterAssets](FLEXIDEPTH, load_routers, RouterTraining, ROUTED),
    TrainedMethod[RouterAssets](
        FLEXIDEPTH_TOKENS, partial(load_routers, method="flexidepth-tokens"), RouterTraining, ROUTED
    ),
    TrainedMethod[ConsistencyAssets](DEER, load_deer, ExitTraining, AGREED),
    TrainedMethod[MixtureAssets](MOLE, load_router, MixtureTraining, MIXED),
)
TRAINED: Mapping[str, TrainedMethod[Any]] = {each.bundle.method: each for each in _TABLE}
"""By the name of the bundle."""
