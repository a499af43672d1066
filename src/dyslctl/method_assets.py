"""What methods may be built from: the trained assets of a run, a setup, and the dial by which a method is turned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

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

Trained = Literal["dysl", "dysl-paper", "static", "flexidepth", "flexidepth-tokens", "deer", "mole"]
"""The methods that ``dyslctl distill`` trains; each has a bundle of its own, named after it."""
Asset = TypeVar("Asset")


class ExitAssets(Protocol):
    """What the methods need of a bundle with exits."""

    @property
    def modules(self) -> ExitModules:
        """Exits and planner, with their partition."""

    @property
    def settings(self) -> ExitSettings:
        """The calibrated tolerance."""

    @property
    def execute_horizon(self) -> int:
        """Actions executed before the next inference in training."""


class SkipAssets(Protocol):
    """What the methods need of a ``dysl-paper`` bundle."""

    @property
    def modules(self) -> SkipModules:
        """Adapters and controllers, with their partition."""

    @property
    def guidance(self) -> GuidanceSettings:
        """Calibrated thresholds."""


class RouterAssets(Protocol):
    """What the methods need of a bundle of ``flexidepth`` or ``flexidepth-tokens``."""

    @property
    def modules(self) -> SkipModules:
        """Adapters and routers, one of each before every layer."""

    @property
    def tau(self) -> float:
        """The calibrated threshold."""


class ConsistencyAssets(Protocol):
    """What the methods need of a ``deer`` bundle."""

    @property
    def modules(self) -> ExitModules:
        """Exits, with their partition."""

    @property
    def deltas(self) -> np.ndarray:
        """``[n, E - 1]``, how far each exit's action is from that of the exit before, on held-out states."""

    @property
    def share(self) -> float:
        """Of the layers, that the thresholds are to run on those states."""

    @property
    def execute_horizon(self) -> int:
        """Actions executed before the next inference in training."""


class MixtureAssets(Protocol):
    """What the methods need of a ``mole`` bundle."""

    @property
    def router(self) -> LayerRouter:
        """What picks the layers."""

    @property
    def share(self) -> float:
        """Of the layers, that run."""


@dataclass(frozen=True)
class Assets:
    """What a run has to offer; ``None`` for what was not asked for.

    Attributes:
        partition: The skip profile's.
        exits: The bundle of ``dysl``.
        paper: The bundle of ``dysl-paper``.
        static: The bundle of ``static``.
        flexidepth: The bundle of ``flexidepth``.
        flexidepth_tokens: The bundle of ``flexidepth-tokens``.
        deer: The bundle of ``deer``.
        mole: The bundle of ``mole``.
        similarity: The skip profile's: each layer's mean cosine of input and output.
    """

    partition: LayerPartition | None = None
    exits: ExitAssets | None = None
    paper: SkipAssets | None = None
    static: ExitAssets | None = None
    flexidepth: RouterAssets | None = None
    flexidepth_tokens: RouterAssets | None = None
    deer: ConsistencyAssets | None = None
    mole: MixtureAssets | None = None
    similarity: tuple[float, ...] | None = None

    def bundles(self) -> set[Trained]:
        """Which bundles are at hand."""
        found: dict[Trained, object] = {
            "dysl": self.exits,
            "dysl-paper": self.paper,
            "static": self.static,
            "flexidepth": self.flexidepth,
            "flexidepth-tokens": self.flexidepth_tokens,
            "deer": self.deer,
            "mole": self.mole,
        }
        return {name for name, bundle in found.items() if bundle is not None}

    @property
    def execute_horizon(self) -> int | None:
        """Actions executed before the next inference in the training of the exits at hand; ``None`` if there are none.

        Exits are trained for one horizon and serve no other. The others remember nothing.
        """
        trained = [bundle.execute_horizon for bundle in (self.exits, self.static, self.deer) if bundle is not None]
        return trained[0] if trained else None


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

    def exits(self) -> ExitAssets:
        """The bundle of ``dysl``.

        Raises:
            ConfigError: If there is none, or it was trained for another number of executed actions.
        """
        assets = _required(self.assets.exits, "trained exits", "dyslctl distill makes the bundle")
        return self._executing(assets, "dysl")

    def paper(self) -> SkipAssets:
        """The bundle of ``dysl-paper``.

        Raises:
            ConfigError: If there is none.
        """
        hint = "dyslctl distill --method dysl-paper makes the bundle"
        return _required(self.assets.paper, "trained skip modules", hint)

    def static(self) -> ExitAssets:
        """The bundle of ``static``.

        Raises:
            ConfigError: If there is none, or it was trained for another number of executed actions.
        """
        hint = "dyslctl distill --method static makes the bundle"
        return self._executing(_required(self.assets.static, "exits trained one by one", hint), "static")

    def flexidepth(self) -> RouterAssets:
        """The bundle of ``flexidepth``.

        Raises:
            ConfigError: If there is none.
        """
        hint = "dyslctl distill --method flexidepth makes the bundle"
        return _required(self.assets.flexidepth, "trained routers", hint)

    def flexidepth_tokens(self) -> RouterAssets:
        """The bundle of ``flexidepth-tokens``.

        Raises:
            ConfigError: If there is none.
        """
        hint = "dyslctl distill --method flexidepth-tokens makes the bundle"
        return _required(self.assets.flexidepth_tokens, "routers trained token by token", hint)

    def deer(self) -> ConsistencyAssets:
        """The bundle of ``deer``.

        Raises:
            ConfigError: If there is none, or it was trained for another number of executed actions.
        """
        hint = "dyslctl distill --method deer makes the bundle"
        assets = _required(self.assets.deer, "exits to compare", hint)
        self._check_horizon(assets.execute_horizon, "deer")
        return assets

    def mole(self) -> MixtureAssets:
        """The bundle of ``mole``.

        Raises:
            ConfigError: If there is none.
        """
        return _required(
            self.assets.mole, "a trained router of layers", "dyslctl distill --method mole makes the bundle"
        )

    def target(self) -> float:
        """The number of layers to match.

        Raises:
            ConfigError: If there is none.
        """
        hint = "evaluate it together with dysl, whose mean it takes"
        return _required(self.target_layers, "a mean number of layers to match", hint)

    def _executing(self, assets: ExitAssets, bundle: Trained) -> ExitAssets:
        """``assets``, if what they remember lies in time where they learnt to find it."""
        self._check_horizon(assets.execute_horizon, bundle)
        return assets

    def _check_horizon(self, trained: int, bundle: Trained) -> None:
        if trained != self.execute_horizon:
            raise ConfigError(
                f"the exits of '{bundle}' were trained for {trained} executed actions an inference, found "
                f"{self.execute_horizon} to execute",
                hint=f"--set execute_horizon={trained}, or dyslctl distill --method {bundle} --set "
                f"execute_horizon={self.execute_horizon} trains exits for these",
            )


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
