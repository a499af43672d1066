"""Method name -> policy. The one place that knows them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from dyslctl.backbone import Backbone
from dyslctl.baselines.oracle import OraclePolicy
from dyslctl.baselines.random_skip import (
    RandomExits,
    RandomSkipSchedule,
    Reach,
    exit_probability,
    skip_probability,
)
from dyslctl.baselines.static_exit import nearest_exit
from dyslctl.dysl.exit_policy import ExitPolicy, ExitSettings
from dyslctl.dysl.exit_schedule import ExitLadder, FixedExit, PlannedExit
from dyslctl.dysl.exits import ExitModules
from dyslctl.dysl.guidance import GuidanceSettings
from dyslctl.dysl.partition import LayerPartition
from dyslctl.dysl.policy import DySLPolicy
from dyslctl.dysl.skip_modules import SkipModules
from dyslctl.errors import ConfigError
from dyslctl.plugins import did_you_mean
from dyslctl.policy import Policy, SchedulePolicy, full_policy
from dyslctl.pruning.divprune import DivPruneSchedule

Trained = Literal["dysl", "dysl-paper", "static"]
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


@dataclass(frozen=True)
class Assets:
    """What a run has to offer; ``None`` for what was not asked for.

    Attributes:
        partition: The skip profile's.
        exits: The bundle of ``dysl``.
        paper: The bundle of ``dysl-paper``.
        static: The bundle of ``static``.
    """

    partition: LayerPartition | None = None
    exits: ExitAssets | None = None
    paper: SkipAssets | None = None
    static: ExitAssets | None = None

    def bundles(self) -> set[Trained]:
        """Which bundles are at hand."""
        found: dict[Trained, object] = {"dysl": self.exits, "dysl-paper": self.paper, "static": self.static}
        return {name for name, bundle in found.items() if bundle is not None}

    @property
    def execute_horizon(self) -> int | None:
        """Actions executed before the next inference in the training of the exits at hand; ``None`` if there are none.

        Exits remember the last chunk and serve no other horizon. ``dysl-paper`` remembers nothing.
        """
        trained = [bundle.execute_horizon for bundle in (self.exits, self.static) if bundle is not None]
        return trained[0] if trained else None


NO_ASSETS = Assets()
KEEP_TOKENS = 0.5
"""Of the visual tokens, unless told otherwise."""


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
        keep_tokens: Share of each view's tokens that token pruning keeps.
    """

    backbone: Backbone
    execute_horizon: int
    seed: int = 0
    assets: Assets = NO_ASSETS
    target_layers: float | None = None
    dial: float | None = None
    keep_tokens: float = KEEP_TOKENS

    def partition(self) -> LayerPartition:
        """The skip profile's partition.

        Raises:
            ConfigError: If there is none.
        """
        return _required(self.assets.partition, "a skip profile", "dyslctl profile makes it")

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

    def target(self) -> float:
        """The number of layers to match.

        Raises:
            ConfigError: If there is none.
        """
        hint = "evaluate it together with dysl, whose mean it takes"
        return _required(self.target_layers, "a mean number of layers to match", hint)

    def _executing(self, assets: ExitAssets, bundle: Trained) -> ExitAssets:
        """``assets``, if what they remember lies in time where they learnt to find it."""
        if assets.execute_horizon != self.execute_horizon:
            raise ConfigError(
                f"the exits of '{bundle}' were trained for {assets.execute_horizon} executed actions an inference, "
                f"found {self.execute_horizon} to execute",
                hint=f"run them on a suite that executes {assets.execute_horizon} actions an inference (--suite), or "
                f"dyslctl distill --method {bundle} --suite SUITE trains exits for this one",
            )
        return assets


def _required(value: Asset | None, what: str, hint: str) -> Asset:
    if value is None:
        raise ConfigError(f"this method needs {what}", hint)
    return value


@dataclass(frozen=True)
class Dial:
    """The one number by which a method trades success for layers: the larger, the fewer layers, monotonically.

    Attributes:
        low: Every layer runs.
        high: As few layers run as the method can.
        meaning: In words.
    """

    low: float
    high: float
    meaning: str


@dataclass(frozen=True)
class Method:
    """One entry of the table.

    Attributes:
        summary: One line for ``--help`` and reports.
        build: Makes the policy.
        bundle: Whose bundle it needs.
        needs_partition: The skip profile's partition must be given.
        needs_target: The mean number of executed layers must be given.
        in_steps: It runs equally many layers each time, so it can only come near to a target.
        dial: How it trades success for layers, if it can.
        privileged: It knows what no robot knows: a bound, whose time means nothing.
        prunes: Its layers see fewer tokens, which no prediction for another device knows of.
    """

    summary: str
    build: Callable[[Setup], Policy]
    bundle: Trained | None = None
    needs_partition: bool = False
    needs_target: bool = False
    in_steps: bool = False
    dial: Dial | None = None
    privileged: bool = False
    prunes: bool = False


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


def bundles(wanted: Iterable[str]) -> list[Trained]:
    """The bundles that the methods ``wanted`` need together, each once.

    Raises:
        ConfigError: If a method is unknown.
    """
    needed = [method(name).bundle for name in wanted]
    return [bundle for bundle in dict.fromkeys(needed) if bundle is not None]


def needs_target(name: str) -> bool:
    """Whether the method matches another one's mean number of executed layers."""
    return method(name).needs_target


def reference(wanted: Iterable[str]) -> str:
    """Whose mean layers the random methods match: ``dysl``, unless only another trained method takes part."""
    trained = [name for name in wanted if method(name).dial is not None]
    return "dysl" if "dysl" in trained or not trained else trained[0]


def with_reference(wanted: Sequence[str]) -> list[str]:
    """``wanted``, and the method whose mean layers must be measured first if any of them matches it."""
    return [*wanted, reference(wanted)] if any(map(needs_target, wanted)) else list(wanted)


def build(
    name: str,
    backbone: Backbone,
    assets: Assets = NO_ASSETS,
    *,
    execute_horizon: int,
    seed: int = 0,
    target_layers: float | None = None,
    dial: float | None = None,
    keep_tokens: float = KEEP_TOKENS,
) -> Policy:
    """A policy for ``name``, ready for ``reset``.

    Raises:
        ConfigError: If the name is unknown, or the method lacks its bundle or its target.
    """
    return method(name).build(Setup(backbone, execute_horizon, seed, assets, target_layers, dial, keep_tokens))


def _full(setup: Setup) -> Policy:
    return full_policy(setup.backbone, setup.execute_horizon)


def _dysl(setup: Setup) -> Policy:
    assets = setup.exits()
    tolerance = assets.settings.tolerance if setup.dial is None else setup.dial
    schedule = PlannedExit(ExitLadder(assets.modules), assets.modules.planner.bind(), tolerance)
    return ExitPolicy(setup.backbone, schedule, setup.execute_horizon)


def _paper(*, pre_skip: bool = True, post_skip: bool = True) -> Callable[[Setup], Policy]:
    def make(setup: Setup) -> Policy:
        assets = setup.paper()
        return DySLPolicy(
            setup.backbone,
            assets.modules,
            assets.guidance.shifted(setup.dial or 0.0),
            setup.execute_horizon,
            pre_skip=pre_skip,
            post_skip=post_skip,
        )

    return make


def _random_skip(reach: Reach) -> Callable[[Setup], Policy]:
    def make(setup: Setup) -> Policy:
        partition = setup.partition()
        probability = skip_probability(partition, setup.target(), reach)
        schedule = RandomSkipSchedule(partition, probability, seed=setup.seed, reach=reach)
        return SchedulePolicy(setup.backbone, schedule, setup.execute_horizon)

    return make


def _random_exits(setup: Setup) -> Policy:
    ladder = ExitLadder(setup.exits().modules)
    probability = exit_probability(ladder.exits, ladder.num_layers, setup.target())
    return ExitPolicy(setup.backbone, RandomExits(ladder, probability, seed=setup.seed), setup.execute_horizon)


def _static(setup: Setup) -> Policy:
    ladder = ExitLadder(setup.static().modules)
    schedule = FixedExit(ladder, nearest_exit(ladder, setup.target()))
    return ExitPolicy(setup.backbone, schedule, setup.execute_horizon)


def _oracle(setup: Setup) -> Policy:
    assets, horizon = setup.exits(), setup.execute_horizon
    tolerance = assets.settings.tolerance if setup.dial is None else setup.dial
    return OraclePolicy(setup.backbone, ExitLadder(assets.modules), tolerance, horizon)


def _divprune(setup: Setup) -> Policy:
    return SchedulePolicy(setup.backbone, DivPruneSchedule(setup.keep_tokens), setup.execute_horizon)


DAMAGE = Dial(-7.0, 3.0, "log of the relative damage that is worth as much as all layers")
"""From less than the floor below which damage is not told apart, to many times the motion itself."""
LENIENCE = Dial(-16.0, 16.0, "logits that every controller is more willing to skip by")

METHODS: Mapping[str, Method] = {
    "full": Method("every layer, the upstream model", _full),
    "dysl": Method("planned exits: damage and layers weighed against each other", _dysl, "dysl", dial=DAMAGE),
    "dysl-paper": Method("the rule of the paper", _paper(), "dysl-paper", dial=LENIENCE),
    "dysl-paper-no-pre": Method(
        "without pre-skip prediction: controllers always decide", _paper(pre_skip=False), "dysl-paper", dial=LENIENCE
    ),
    "dysl-paper-no-post": Method(
        "without post-skip verification: no second prediction", _paper(post_skip=False), "dysl-paper", dial=LENIENCE
    ),
    "random-skip": Method(
        "random jumps to the next static layer, without adapters",
        _random_skip("segment"),
        needs_partition=True,
        needs_target=True,
    ),
    "random-skip-layers": Method(
        "each dynamic layer left out by a coin of its own",
        _random_skip("layer"),
        needs_partition=True,
        needs_target=True,
    ),
    "random-skip-adapters": Method("random exits through dysl's adapters", _random_exits, "dysl", needs_target=True),
    "static": Method("always the same exit, trained for that", _static, "static", needs_target=True, in_steps=True),
    "oracle": Method(
        "a planner that knows the damage: a bound, not for use", _oracle, "dysl", dial=DAMAGE, privileged=True
    ),
    "divprune": Method("every layer, on the visual tokens that differ most from each other", _divprune, prunes=True),
}
