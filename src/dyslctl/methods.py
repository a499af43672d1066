"""Method name -> policy. The one place that knows them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from dyslctl.backbone import Backbone, require_attention, require_layers_beside
from dyslctl.baselines.deer import ConsistencyPolicy, thresholds_for
from dyslctl.baselines.flexidepth import FlexiDepthPolicy
from dyslctl.baselines.flexidepth_tokens import FlexiDepthTokensPolicy
from dyslctl.baselines.mole import MolePolicy, layers_kept
from dyslctl.baselines.oracle import OraclePolicy
from dyslctl.baselines.random_skip import (
    RandomExits,
    RandomSkipSchedule,
    exit_probability,
    skip_probability,
)
from dyslctl.baselines.static_exit import nearest_exit
from dyslctl.dysl.exit_policy import ExitPolicy
from dyslctl.dysl.exit_schedule import ExitLadder, FixedExit, PlannedExit
from dyslctl.dysl.guidance import shift_threshold
from dyslctl.dysl.partition import Reach
from dyslctl.dysl.policy import DySLPolicy
from dyslctl.engine import LayerSchedule
from dyslctl.errors import ConfigError
from dyslctl.joint.policy import JointPolicy
from dyslctl.joint.skipping import Controllers, PlannedExits
from dyslctl.method_assets import (
    DEER,
    DYSL,
    FLEXIDEPTH,
    FLEXIDEPTH_TOKENS,
    MOLE,
    STATIC,
    Dial,
    RouterAssets,
    Setup,
)
from dyslctl.plugins import did_you_mean
from dyslctl.policy import Policy, SchedulePolicy, full_policy
from dyslctl.pruning import divprune, fastv, sparsevlm
from dyslctl.pruning.efficientvla import EfficientVLASchedule
from dyslctl.pruning.settings import PruningSettings
from dyslctl.pruning.specprune_policy import SpecPrunePolicy
from dyslctl.pruning.vla_cache import VLACachePolicy
from dyslctl.trained import Trained


@dataclass(frozen=True)
class Method:
    """One entry of the table.

    Attributes:
        summary: One line for ``--help`` and reports.
        build: Makes the policy.
        bundle: Whose bundle it needs.
        needs_target: The mean number of executed layers must be given.
        in_steps: It runs equally many layers each time, so it can only come near to a target.
        dial: How it trades success for layers, if it can.
        privileged: It knows what no robot knows: a bound, whose time means nothing.
        prunes: Its layers see fewer visual tokens, as ``PruningSettings`` say.
        needs: Each raises ``ConfigError`` if the backbone does not offer what else than its layers the method asks for.
        by_token: Each token goes through layers of its own.
    """

    summary: str
    build: Callable[[Setup], Policy]
    bundle: Trained | None = None
    needs_target: bool = False
    in_steps: bool = False
    dial: Dial | None = None
    privileged: bool = False
    prunes: bool = False
    needs: tuple[Callable[[Backbone], None], ...] = ()
    by_token: bool = False

    @property
    def fewer_tokens(self) -> bool:
        """Fewer tokens go through some layers, so that these cost less: no prediction for a device knows of that."""
        return self.prunes or self.by_token


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


def build(name: str, setup: Setup) -> Policy:
    """A policy for ``name``, ready for ``reset``.

    Raises:
        ConfigError: If the name is unknown, the method lacks its bundle or its target, or the backbone does not offer
            what it needs: visual tokens in its layers, their attention.
    """
    if method(name).prunes and not setup.backbone.spec.visual_tokens:
        kind = type(setup.backbone).__name__
        raise ConfigError(
            f"'{name}' prunes visual tokens, and the layers of {kind} see none: images come in by another way, such as "
            "cross-attention",
            hint="token pruning is for backbones whose language model reads image tokens, such as openvla-oft",
        )
    for require in method(name).needs:
        require(setup.backbone)
    return method(name).build(setup)


def _full(setup: Setup) -> Policy:
    return full_policy(setup.backbone, setup.execute_horizon)


def _dysl(setup: Setup) -> ExitPolicy:
    return ExitPolicy(setup.backbone, _planned(setup), setup.execute_horizon)


def _planned(setup: Setup) -> PlannedExit:
    assets = setup.exits(DYSL)
    tolerance = assets.settings.tolerance if setup.dial is None else setup.dial
    return PlannedExit(ExitLadder(assets.modules, setup.backbone.pack), assets.modules.planner.bind(), tolerance)


def _paper(*, pre_skip: bool = True, post_skip: bool = True) -> Callable[[Setup], DySLPolicy]:
    def make(setup: Setup) -> DySLPolicy:
        assets = setup.paper()
        guidance = assets.guidance
        return DySLPolicy(
            setup.backbone,
            assets.modules,
            guidance if setup.dial is None else replace(guidance, lenience=setup.dial),
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
    ladder = ExitLadder(setup.exits(DYSL).modules, setup.backbone.pack)
    probability = exit_probability(ladder.exits, ladder.num_layers, setup.target())
    return ExitPolicy(setup.backbone, RandomExits(ladder, probability, seed=setup.seed), setup.execute_horizon)


def _static(setup: Setup) -> Policy:
    ladder = ExitLadder(setup.exits(STATIC).modules, setup.backbone.pack)
    schedule = FixedExit(ladder, nearest_exit(ladder, setup.target()))
    return ExitPolicy(setup.backbone, schedule, setup.execute_horizon)


def _flexidepth(setup: Setup) -> Policy:
    assets = setup.bundle(FLEXIDEPTH)
    return FlexiDepthPolicy(setup.backbone, assets.modules, _threshold(assets, setup), setup.execute_horizon)


def _flexidepth_tokens(setup: Setup) -> Policy:
    assets = setup.bundle(FLEXIDEPTH_TOKENS)
    return FlexiDepthTokensPolicy(setup.backbone, assets.modules, _threshold(assets, setup), setup.execute_horizon)


def _threshold(assets: RouterAssets, setup: Setup) -> float:
    return shift_threshold(assets.tau, assets.lenience if setup.dial is None else setup.dial)


def _deer(setup: Setup) -> Policy:
    assets, share = setup.exits(DEER), setup.dial
    ladder, share = ExitLadder(assets.modules, setup.backbone.pack), assets.share if share is None else -share
    layers = share * ladder.num_layers
    thresholds = thresholds_for(assets.deltas, ladder.exits[1:], ladder.num_layers, layers)
    return ConsistencyPolicy(setup.backbone, ladder, thresholds, setup.execute_horizon)


def _mole(setup: Setup) -> Policy:
    assets, backbone = setup.bundle(MOLE), setup.backbone
    keep = layers_kept(assets.share if setup.dial is None else -setup.dial, backbone.spec.num_layers)
    return MolePolicy(backbone, assets.router, keep, setup.execute_horizon)


def _oracle(setup: Setup) -> Policy:
    assets, horizon = setup.exits(DYSL), setup.execute_horizon
    tolerance = assets.settings.tolerance if setup.dial is None else setup.dial
    return OraclePolicy(setup.backbone, ExitLadder(assets.modules, setup.backbone.pack), tolerance, horizon)


def _pruned(schedule: Callable[[Backbone, PruningSettings], LayerSchedule]) -> Callable[[Setup], Policy]:
    def make(setup: Setup) -> Policy:
        return SchedulePolicy(setup.backbone, schedule(setup.backbone, setup.pruning), setup.execute_horizon)

    return make


def _efficientvla(setup: Setup) -> Policy:
    schedule = EfficientVLASchedule(setup.backbone.attention_rows, setup.pruning, setup.similarity())
    return SchedulePolicy(setup.backbone, schedule, setup.execute_horizon)


def _vla_cache(setup: Setup) -> Policy:
    return VLACachePolicy(setup.backbone, setup.pruning, setup.execute_horizon)


def _specprune(setup: Setup) -> Policy:
    return SpecPrunePolicy(setup.backbone, setup.pruning, setup.execute_horizon)


def _dysl_specprune(setup: Setup) -> Policy:
    schedule = _planned(setup)
    skipping = PlannedExits(ExitPolicy(setup.backbone, schedule, setup.execute_horizon), schedule)
    return JointPolicy(skipping, setup.pruning, setup.execute_horizon)


def _paper_specprune(*, post_skip: bool = True) -> Callable[[Setup], JointPolicy]:
    def make(setup: Setup) -> JointPolicy:
        dynamic, horizon = setup.paper().modules.partition.dynamic_layers, setup.execute_horizon
        policy = _paper(post_skip=post_skip)(setup)
        return JointPolicy(
            Controllers(policy, setup.backbone.spec.num_layers, dynamic, horizon), setup.pruning, horizon
        )

    return make


DAMAGE = Dial(-7.0, 3.0, "log of the relative damage that is worth as much as all layers")
"""From less than the floor below which damage is not told apart, to many times the motion itself."""
LENIENCE = Dial(-16.0, 16.0, "logits that every controller or router is more willing to skip by")
MIXTURE = Dial(-1.0, 0.0, "minus the share of the layers that run")
CONSISTENCY = Dial(-1.0, 0.0, "minus the share of the layers that run on held-out states")

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
    "dysl-paper-controllers": Method(
        "controllers alone: neither pre-skip prediction nor post-skip verification",
        _paper(pre_skip=False, post_skip=False),
        "dysl-paper",
        dial=LENIENCE,
    ),
    "random-skip": Method(
        "random jumps to the next static layer, without adapters",
        _random_skip("segment"),
        needs_target=True,
    ),
    "random-skip-layers": Method(
        "each dynamic layer left out by a coin of its own",
        _random_skip("layer"),
        needs_target=True,
    ),
    "random-skip-adapters": Method("random exits through dysl's adapters", _random_exits, "dysl", needs_target=True),
    "static": Method("always the same exit, trained for that", _static, "static", needs_target=True, in_steps=True),
    "flexidepth": Method(
        "routers skip layers one at a time, each through an adapter", _flexidepth, "flexidepth", dial=LENIENCE
    ),
    "flexidepth-tokens": Method(
        "routers let each token skip layers by itself; the others still attend to it",
        _flexidepth_tokens,
        "flexidepth-tokens",
        dial=LENIENCE,
        by_token=True,
    ),
    "deer": Method("leaves where two exits in a row agree on the action", _deer, "deer", dial=CONSISTENCY),
    "mole": Method("a router before the first layer picks those that run", _mole, "mole", dial=MIXTURE),
    "oracle": Method(
        "a planner that knows the damage: a bound, not for use", _oracle, "dysl", dial=DAMAGE, privileged=True
    ),
    "divprune": Method(
        "every layer, on the visual tokens that differ most from each other", _pruned(divprune.schedule), prunes=True
    ),
    "fastv": Method(
        "after two layers the visual tokens that the action attends to most",
        _pruned(fastv.schedule),
        prunes=True,
        needs=(require_attention,),
    ),
    "sparsevlm": Method(
        "at three depths fewer visual tokens, by the words about the picture; some are merged",
        _pruned(sparsevlm.schedule),
        prunes=True,
        needs=(require_attention,),
    ),
    "efficientvla": Method(
        "without the least important layers, and after two of them on fewer visual tokens",
        _efficientvla,
        prunes=True,
        needs=(require_attention,),
    ),
    "vla-cache": Method(
        "visual tokens that look as before are not computed again: their keys and values are reused",
        _vla_cache,
        prunes=True,
        needs=(require_attention, require_layers_beside),
    ),
    "specprune": Method(
        "visual tokens that were important last time, have changed, or are attended to at once",
        _specprune,
        prunes=True,
        needs=(require_attention,),
    ),
    "dysl+specprune": Method(
        "planned exits, on the tokens that specprune retains",
        _dysl_specprune,
        "dysl",
        dial=DAMAGE,
        prunes=True,
        needs=(require_attention,),
    ),
    "dysl-paper+specprune": Method(
        "the rule of the paper, on the tokens that specprune retains",
        _paper_specprune(),
        "dysl-paper",
        dial=LENIENCE,
        prunes=True,
        needs=(require_attention,),
    ),
    "dysl-paper-no-post+specprune": Method(
        "... without post-skip verification: no second prediction",
        _paper_specprune(post_skip=False),
        "dysl-paper",
        dial=LENIENCE,
        prunes=True,
        needs=(require_attention,),
    ),
}
