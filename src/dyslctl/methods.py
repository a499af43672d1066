"""Method name -> policy. The one place that knows them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from dyslctl.backbone import Backbone
from dyslctl.baselines.random_skip import RandomSkipSchedule, skip_probability
from dyslctl.dysl.guidance import GuidanceSettings
from dyslctl.dysl.policy import DySLPolicy
from dyslctl.dysl.skip_modules import SkipModules
from dyslctl.errors import ConfigError
from dyslctl.plugins import did_you_mean
from dyslctl.policy import Policy, SchedulePolicy, full_policy


class SkipAssets(Protocol):
    """What the methods need of a bundle."""

    @property
    def modules(self) -> SkipModules:
        """Adapters and controllers, with their partition."""

    @property
    def guidance(self) -> GuidanceSettings:
        """Calibrated thresholds."""


@dataclass(frozen=True)
class Setup:
    """Everything a method may be built from.

    Attributes:
        backbone: The frozen model.
        execute_horizon: Actions of a chunk executed before the next inference.
        seed: Of the method's own randomness; an episode's seed comes with ``Policy.reset``.
        assets: The bundle, for methods that need one.
        target_layers: Mean executed layers to match, for methods that need it.
    """

    backbone: Backbone
    execute_horizon: int
    seed: int = 0
    assets: SkipAssets | None = None
    target_layers: float | None = None

    def required_assets(self) -> SkipAssets:
        """The bundle.

        Raises:
            ConfigError: If there is none.
        """
        if self.assets is None:
            raise ConfigError("this method needs trained skip modules", hint="dyslctl distill makes the bundle")
        return self.assets

    def required_target(self) -> float:
        """The number of layers to match.

        Raises:
            ConfigError: If there is none.
        """
        if self.target_layers is None:
            raise ConfigError(
                "this method needs a mean number of layers to match",
                hint="evaluate it together with dysl, whose mean it takes",
            )
        return self.target_layers


@dataclass(frozen=True)
class Method:
    """One entry of the table.

    Attributes:
        summary: One line for ``--help`` and reports.
        build: Makes the policy.
        needs_bundle: Skip modules must exist.
        needs_target: The mean number of executed layers must be given.
    """

    summary: str
    build: Callable[[Setup], Policy]
    needs_bundle: bool = True
    needs_target: bool = False


def names() -> list[str]:
    """All method names, in the order of tables."""
    return list(METHODS)


def method(name: str) -> Method:
    """The method called ``name``.

    Raises:
        ConfigError: If there is none.
    """
    if name not in METHODS:
        raise ConfigError(f"no method named '{name}'.{did_you_mean(name, names())}\n  known: {', '.join(names())}")
    return METHODS[name]


def needs_bundle(name: str) -> bool:
    """Whether the method needs a partition, skip modules and thresholds."""
    return method(name).needs_bundle


def needs_target(name: str) -> bool:
    """Whether the method matches another one's mean number of executed layers."""
    return method(name).needs_target


def build(
    name: str,
    backbone: Backbone,
    assets: SkipAssets | None = None,
    *,
    execute_horizon: int,
    seed: int = 0,
    target_layers: float | None = None,
) -> Policy:
    """A policy for ``name``, ready for ``reset``.

    Raises:
        ConfigError: If the name is unknown, or the method lacks its bundle or its target.
    """
    return method(name).build(Setup(backbone, execute_horizon, seed, assets, target_layers))


def _full(setup: Setup) -> Policy:
    return full_policy(setup.backbone, setup.execute_horizon)


def _dysl(*, pre_skip: bool = True, post_skip: bool = True) -> Callable[[Setup], Policy]:
    def make(setup: Setup) -> Policy:
        assets = setup.required_assets()
        return DySLPolicy(
            setup.backbone,
            assets.modules,
            assets.guidance,
            setup.execute_horizon,
            pre_skip=pre_skip,
            post_skip=post_skip,
        )

    return make


def _random_skip(*, adapters: bool) -> Callable[[Setup], Policy]:
    def make(setup: Setup) -> Policy:
        modules = setup.required_assets().modules
        schedule = RandomSkipSchedule(
            modules.partition,
            skip_probability(modules.partition, setup.required_target()),
            seed=setup.seed,
            adapters=modules if adapters else None,
        )
        return SchedulePolicy(setup.backbone, schedule, setup.execute_horizon)

    return make


METHODS: Mapping[str, Method] = {
    "full": Method("every layer, the upstream model", _full, needs_bundle=False),
    "dysl": Method("dynamic-static layer skipping, the recommended recipe", _dysl()),
    "dysl-paper": Method("the rule of the paper; in this version the same as dysl", _dysl()),
    "dysl-no-pre": Method("without pre-skip prediction: controllers always decide", _dysl(pre_skip=False)),
    "dysl-no-post": Method("without post-skip verification: no second prediction", _dysl(post_skip=False)),
    "random-skip": Method("random jumps without adapters", _random_skip(adapters=False), needs_target=True),
    "random-skip-adapters": Method(
        "random jumps through the trained adapters", _random_skip(adapters=True), needs_target=True
    ),
}
