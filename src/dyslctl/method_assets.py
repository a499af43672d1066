"""What methods may be built from: the trained assets of a run, a setup, and the dial by which a method is turned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar, cast

import numpy as np

from dyslctl.backbone import Backbone
from dyslctl.baselines.mole import LayerRouter
from dyslctl.dysl.exit_policy import ExitSettings
from dyslctl.dysl.exits import ExitModules
from dyslctl.dysl.guidance import GuidanceSettings
from dyslctl.dysl.partition import LayerPartition
from dyslctl.dysl.skip_modules import SkipModules
from dyslctl.errors import ConfigError
from dyslctl.pruning.settings import PRUNING, PruningSettings
from dyslctl.trained import Trained


class AnyExits(Protocol):
    """What all bundles with exits have in common: they are trained for one horizon and serve no other."""

    @property
    def modules(self) -> ExitModules:
        """Exits and planner, with their partition."""

    @property
    def execute_horizon(self) -> int:
        """Actions executed before the next inference in training."""


class ExitAssets(AnyExits, Protocol):
    """What the methods need of a bundle of ``dysl`` or ``static``."""

    @property
    def settings(self) -> ExitSettings:
        """The calibrated tolerance."""


class SkipAssets(Protocol):
    """What the methods need of a ``dysl-paper`` bundle."""

    @property
    def modules(self) -> SkipModules:
        """Adapters and controllers, with their partition."""

    @property
    def guidance(self) -> GuidanceSettings:
        """Calibrated thresholds."""

    @property
    def execute_horizon(self) -> int | None:
        """Actions executed before the next inference where these were fitted; ``None``: they were set by hand."""


class RouterAssets(Protocol):
    """What the methods need of a bundle of ``flexidepth`` or ``flexidepth-tokens``."""

    @property
    def modules(self) -> SkipModules:
        """Adapters and routers, one of each before every layer."""

    @property
    def tau(self) -> float:
        """The threshold."""

    @property
    def lenience(self) -> float:
        """Logits that every router is more willing to skip by."""


class ConsistencyAssets(AnyExits, Protocol):
    """What the methods need of a ``deer`` bundle; nobody asks its planner."""

    @property
    def deltas(self) -> np.ndarray:
        """``[n, E - 1]``, how far each exit's action is from that of the exit before, on held-out states."""

    @property
    def share(self) -> float:
        """Of the layers, that the thresholds are to run on those states."""


class MixtureAssets(Protocol):
    """What the methods need of a ``mole`` bundle."""

    @property
    def router(self) -> LayerRouter:
        """What picks the layers."""

    @property
    def share(self) -> float:
        """Of the layers, that run."""


Asset = TypeVar("Asset")
Exits = TypeVar("Exits", bound=AnyExits)


@dataclass(frozen=True)
class BundleOf(Generic[Asset]):
    """A trained method's bundle: what stands in it, as its type and in words.

    Attributes:
        method: Whose.
        holds: Said where it is missing.
    """

    method: Trained
    holds: str


DYSL = BundleOf[ExitAssets]("dysl", "trained exits")
PAPER = BundleOf[SkipAssets]("dysl-paper", "trained skip modules")
STATIC = BundleOf[ExitAssets]("static", "exits trained one by one")
FLEXIDEPTH = BundleOf[RouterAssets]("flexidepth", "trained routers")
FLEXIDEPTH_TOKENS = BundleOf[RouterAssets]("flexidepth-tokens", "routers trained token by token")
DEER = BundleOf[ConsistencyAssets]("deer", "exits to compare")
MOLE = BundleOf[MixtureAssets]("mole", "a trained router of layers")


@dataclass(frozen=True)
class Assets:
    """What a run has to offer; what was not asked for is not there.

    Attributes:
        partition: The skip profile's.
        similarity: The skip profile's: each layer's mean cosine of input and output.
        bundles: What was loaded of each, of the type that its :class:`BundleOf` says; :meth:`bundle` reads it.
    """

    partition: LayerPartition | None = None
    similarity: tuple[float, ...] | None = None
    bundles: Mapping[Trained, object] = field(default_factory=dict)

    def bundle(self, of: BundleOf[Asset]) -> Asset | None:
        """That bundle; ``None`` if it is not at hand."""
        return cast("Asset | None", self.bundles.get(of.method))

    @property
    def execute_horizon(self) -> int | None:
        """Actions executed before the next inference, as the bundles at hand were made for it; ``None``: any number.

        Exits are trained for one horizon and serve no other, nor do the thresholds of ``dysl-paper``. The others
        remember nothing.
        """
        made = (self.bundle(DYSL), self.bundle(STATIC), self.bundle(DEER), self.bundle(PAPER))
        return next((bundle.execute_horizon for bundle in made if bundle is not None), None)


NO_ASSETS = Assets()


@dataclass(frozen=True)
class Setup:
    """Everything a method may be built from.

    Attributes:
        backbone: The frozen model.
        execute_horizon: Actions of a chunk executed before the next inference.
        seed: Of the method's own randomness; an episode's seed comes with ``Policy.reset``.
        assets: What the run has trained.
        target_layers: Mean executed layers to match, for methods that need it.
        dial: Where the method's dial stands; ``None``: as it was calibrated.
        pruning: What methods that prune tokens are told.
    """

    backbone: Backbone
    execute_horizon: int
    seed: int = 0
    assets: Assets = NO_ASSETS
    target_layers: float | None = None
    dial: float | None = None
    pruning: PruningSettings = PRUNING

    def partition(self) -> LayerPartition:
        """The skip profile's partition.

        Raises:
            ConfigError: If there is none.
        """
        return _required(self.assets.partition, "a skip profile", "dyslctl profile makes it")

    def similarity(self) -> tuple[float, ...]:
        """How little each layer changes, from the skip profile.

        Raises:
            ConfigError: If there is none.
        """
        return _required(self.assets.similarity, "a skip profile", "dyslctl profile makes it")

    def bundle(self, of: BundleOf[Asset]) -> Asset:
        """That bundle.

        Raises:
            ConfigError: If it is not at hand.
        """
        return _required(self.assets.bundle(of), of.holds, f"dyslctl distill --method {of.method} makes the bundle")

    def exits(self, of: BundleOf[Exits]) -> Exits:
        """That bundle with exits, if what they remember lies in time where they learnt to find it.

        Raises:
            ConfigError: If it is not at hand, or was trained for another number of executed actions.
        """
        assets = self.bundle(of)
        self._check_horizon(assets.execute_horizon, of, "exits")
        return assets

    def paper(self) -> SkipAssets:
        """The bundle of ``dysl-paper``, if its thresholds were fitted to changes of continuity as they will come.

        Raises:
            ConfigError: If it is not at hand, or was fitted for another number of executed actions.
        """
        assets = self.bundle(PAPER)
        self._check_horizon(assets.execute_horizon, PAPER, "thresholds")
        return assets

    def _check_horizon(self, made_for: int | None, of: BundleOf[Asset], what: str) -> None:
        if made_for not in (None, self.execute_horizon):
            raise ConfigError(
                f"the {what} of '{of.method}' were trained for {made_for} executed actions an inference, found "
                f"{self.execute_horizon} to execute",
                hint=f"--set execute_horizon={made_for}, or dyslctl distill --method {of.method} --set "
                f"execute_horizon={self.execute_horizon} trains {what} for these",
            )

    def target(self) -> float:
        """The number of layers to match.

        Raises:
            ConfigError: If there is none.
        """
        hint = "evaluate it together with dysl, whose mean it takes"
        return _required(self.target_layers, "a mean number of layers to match", hint)


def _required(value: Asset | None, what: str, hint: str) -> Asset:
    if value is None:
        raise ConfigError(f"this method needs {what}", hint)
    return value


@dataclass(frozen=True)
class Dial:
    """The one number by which a method trades success for layers: the larger, the fewer layers on average.

    Attributes:
        low: Every layer runs.
        high: As few layers run as the method can.
        meaning: In words.
    """

    low: float
    high: float
    meaning: str
