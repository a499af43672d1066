from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest
import torch

from dyslctl import methods
from dyslctl.baselines.flexidepth import flexidepth_modules
from dyslctl.baselines.mole import LayerRouter, MixtureSizes
from dyslctl.dysl.exit_policy import ExitSettings
from dyslctl.dysl.exits import ExitModules, ExitSizes
from dyslctl.dysl.guidance import GuidanceSettings
from dyslctl.dysl.partition import LayerPartition, tail
from dyslctl.dysl.skip_modules import SkipModules, SkipSizes
from dyslctl.errors import ConfigError
from dyslctl.method_assets import DEER, FLEXIDEPTH, MOLE, NO_ASSETS, PAPER, Assets, Setup
from dyslctl.policy import StepReport
from dyslctl.runtime.packed import with_backend
from dyslctl.trained import Trained

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach


PARTITION = LayerPartition(8, (0, 3, 7))
SIMILARITY = (0.1, 0.9, 0.8, 0.5, 0.7, 0.8, 0.6, 0.2)
"""The least important of eight layers, as four of 32, is 1."""
DELTAS = np.linspace(0, 1, 101)[:, None]
"""Of one exit that can be left."""


@dataclass(frozen=True)
class Paper:
    modules: SkipModules
    guidance: GuidanceSettings
    execute_horizon: int | None = None


@dataclass(frozen=True)
class Routers:
    modules: SkipModules
    tau: float = 0.5
    lenience: float = 0.0


@dataclass(frozen=True)
class Mole:
    router: LayerRouter
    share: float = 0.5


@dataclass(frozen=True)
class Deer:
    modules: ExitModules
    deltas: np.ndarray
    share: float = 0.5
    execute_horizon: int = 2


@dataclass(frozen=True)
class Exits:
    modules: ExitModules
    settings: ExitSettings
    execute_horizon: int = 2


@pytest.fixture
def assets() -> Assets:
    """Modules that always skip; exits before 1, 2 and 4, those of static before 2 and 6. Adapters change something."""
    torch.manual_seed(0)
    modules = SkipModules(PARTITION, SkipSizes.mini(16))
    sizes = ExitSizes(16, 4, 3, adapter_rank=4)
    exits, static = (ExitModules(tail(PARTITION), layers, sizes) for layers in ((1, 2, 4), (2, 6)))
    routers, mole = flexidepth_modules(8, SkipSizes(16, 4, 16)), Mole(LayerRouter(MixtureSizes(16, 8, 16)).eval())
    for adapter in [
        *modules.adapters.values(),
        *routers.adapters.values(),
        *exits.adapters.values(),
        *static.adapters.values(),
    ]:
        torch.nn.init.normal_(adapter.get_parameter("up.weight"))
    paper = Paper(modules.eval(), GuidanceSettings(-1e-4, 0.0, k=1, tau=0.0))
    made, alone = (Exits(each.eval(), ExitSettings(99.0)) for each in (exits, static))
    deer, routed = Deer(alone.modules, DELTAS), Routers(routers.eval(), tau=0.0)
    bundles: dict[Trained, object] = {
        "dysl": made,
        "dysl-paper": paper,
        "static": alone,
        "flexidepth": routed,
        "flexidepth-tokens": routed,
        "deer": deer,
        "mole": mole,
    }
    return Assets(PARTITION, SIMILARITY, bundles)


def reports(
    name: str,
    backbone: TinyBackbone,
    suite: TinyReach,
    assets: Assets,
    dial: float | None = None,
    steps: int = 20,
) -> tuple[list[StepReport], np.ndarray]:
    policy = methods.build(name, Setup(backbone, 2, assets=assets, target_layers=5.0, dial=dial))
    environment, spec = suite.make(), suite.episodes("test", 1)[0]
    observation, seen, actions = environment.reset(spec), [], []
    policy.reset(spec.seed)
    for _ in range(steps):
        chunk = policy.select_action(observation)
        seen.append(policy.last)
        actions.append(chunk.actions)
        for action in chunk.actions:
            observation = environment.step(action).observation
    return seen, np.concatenate(actions)


def test_names_are_in_table_order() -> None:
    assert methods.names() == [
        "full",
        "dysl",
        "dysl-paper",
        "dysl-paper-no-pre",
        "dysl-paper-no-post",
        "dysl-paper-controllers",
        "random-skip",
        "random-skip-layers",
        "random-skip-adapters",
        "static",
        "flexidepth",
        "flexidepth-tokens",
        "deer",
        "mole",
        "oracle",
        "divprune",
        "fastv",
        "sparsevlm",
        "efficientvla",
        "vla-cache",
        "specprune",
        "dysl+specprune",
        "dysl-paper+specprune",
        "dysl-paper-no-post+specprune",
    ]


def test_what_each_method_needs() -> None:
    assert {name: methods.method(name).bundle for name in methods.names()} == {
        "full": None,
        "dysl": "dysl",
        "dysl-paper": "dysl-paper",
        "dysl-paper-no-pre": "dysl-paper",
        "dysl-paper-no-post": "dysl-paper",
        "dysl-paper-controllers": "dysl-paper",
        "random-skip": None,
        "random-skip-layers": None,
        "random-skip-adapters": "dysl",
        "static": "static",
        "flexidepth": "flexidepth",
        "flexidepth-tokens": "flexidepth-tokens",
        "deer": "deer",
        "mole": "mole",
        "oracle": "dysl",
        "divprune": None,
        "fastv": None,
        "sparsevlm": None,
        "efficientvla": None,
        "vla-cache": None,
        "specprune": None,
        "dysl+specprune": "dysl",
        "dysl-paper+specprune": "dysl-paper",
        "dysl-paper-no-post+specprune": "dysl-paper",
    }
    assert methods.bundles(["dysl-paper", "full", "random-skip-adapters", "dysl"]) == ["dysl-paper", "dysl"]
    assert methods.bundles(["oracle", "static", "dysl"]) == ["dysl", "static"]
    matching = [name for name in methods.names() if methods.needs_target(name)]
    assert matching == ["random-skip", "random-skip-layers", "random-skip-adapters", "static"]


def test_the_exits_at_hand_say_how_many_actions_are_executed(assets: Assets) -> None:
    assert set(assets.bundles) == set(get_args(Trained))
    assert assets.execute_horizon == 2
    assert Assets(bundles={"deer": assets.bundle(DEER)}).execute_horizon == 2
    assert Assets(bundles={"mole": assets.bundle(MOLE)}).execute_horizon is None
    assert NO_ASSETS.execute_horizon is None


def test_whom_random_skipping_matches() -> None:
    assert methods.reference(["full", "random-skip"]) == "dysl"
    assert methods.reference(["dysl-paper", "random-skip", "dysl"]) == "dysl"
    assert methods.reference(["random-skip", "dysl-paper"]) == "dysl-paper"
    assert methods.with_reference(["full", "dysl-paper"]) == ["full", "dysl-paper"]
    assert methods.with_reference(["static"]) == ["static", "dysl"], "a fixed exit has nothing to choose"
    assert methods.with_reference(["full", "random-skip"]) == ["full", "random-skip", "dysl"]


def test_an_unknown_name_gets_a_suggestion(tiny_backbone: type[TinyBackbone]) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'dysl-paper'"):
        methods.build("dysl-papr", Setup(tiny_backbone(), 2))


def test_a_missing_bundle_or_target_is_named(tiny_backbone: type[TinyBackbone], assets: Assets) -> None:
    missing = {"dysl": "trained exits", "dysl-paper": "trained skip modules", "random-skip": "a skip profile"}
    missing |= {
        "static": "exits trained one by one",
        "oracle": "trained exits",
        "flexidepth": "trained routers",
        "flexidepth-tokens": "routers trained token by token",
        "deer": "exits to compare",
        "efficientvla": "a skip profile",
        "mole": "a trained router of layers",
    }
    for name, said in missing.items():
        with pytest.raises(ConfigError, match=said) as caught:
            methods.build(name, Setup(tiny_backbone(), 2, target_layers=5.0))
        assert caught.value.hint is not None and caught.value.hint.startswith("dyslctl ")
    for name in ("random-skip", "static"):
        with pytest.raises(ConfigError, match="layers to match"):
            methods.build(name, Setup(tiny_backbone(), 2, assets=assets))


@pytest.mark.parametrize("name", ["dysl", "oracle", "random-skip-adapters", "static", "deer"])
def test_exits_refuse_another_number_of_executed_actions(
    tiny_backbone: type[TinyBackbone], assets: Assets, name: str
) -> None:
    """What they remember would lie elsewhere in time."""
    message = rf"'{methods.method(name).bundle}' were trained for 2 executed actions an inference, found 3"
    with pytest.raises(ConfigError, match=message) as caught:
        methods.build(name, Setup(tiny_backbone(), 3, assets=assets, target_layers=5.0))
    assert caught.value.hint is not None and "dyslctl distill --method" in caught.value.hint
    methods.build(name, Setup(tiny_backbone(), 2, assets=assets, target_layers=5.0))


@pytest.mark.parametrize("name", ["dysl-paper", "dysl-paper-no-post", "dysl-paper+specprune"])
def test_the_papers_thresholds_refuse_another_number_of_executed_actions(
    tiny_backbone: type[TinyBackbone], assets: Assets, name: str
) -> None:
    """A change of continuity over other actions is another number; thresholds set by hand are the user's affair."""
    paper = assets.bundle(PAPER)
    assert paper is not None
    fitted = replace(assets, bundles={"dysl-paper": Paper(paper.modules, paper.guidance, execute_horizon=2)})
    with pytest.raises(ConfigError, match="thresholds of 'dysl-paper' were trained for 2 executed actions"):
        methods.build(name, Setup(tiny_backbone(), 3, assets=fitted))
    assert fitted.execute_horizon == 2
    methods.build(name, Setup(tiny_backbone(), 2, assets=fitted))
    methods.build(name, Setup(tiny_backbone(), 3, assets=assets))


def test_the_dial_stands_where_it_is_put_wherever_it_stood(tiny_backbone: type[TinyBackbone], assets: Assets) -> None:
    paper, routers = assets.bundle(PAPER), assets.bundle(FLEXIDEPTH)
    assert paper is not None and routers is not None

    def thresholds(lenience: float, dial: float | None) -> list[float]:
        guidance = GuidanceSettings(-1.0, 0.0, tau=0.5, lenience=lenience)
        bundles = {"dysl-paper": Paper(paper.modules, guidance), "flexidepth": Routers(routers.modules, 0.5, lenience)}
        having = replace(assets, bundles=bundles)
        made = [methods.build(name, Setup(tiny_backbone(), 2, assets=having, dial=dial)) for name in bundles]
        return [policy.schedule._tau[1] for policy in made]  # type: ignore[attr-defined]

    assert thresholds(3.0, None) == thresholds(0.0, 3.0) == thresholds(-9.0, 3.0) != thresholds(0.0, None)


@pytest.mark.parametrize("name", ["fastv", "sparsevlm", "specprune", "vla-cache", "efficientvla", "dysl+specprune"])
def test_what_shows_no_attention_is_refused_before_anything_is_played(
    tiny_backbone: type[TinyBackbone], assets: Assets, name: str
) -> None:
    packed = with_backend(tiny_backbone(), "packed")
    with pytest.raises(ConfigError, match="shows no attention"):
        methods.build(name, Setup(packed, 2, assets=assets))
    methods.build("divprune", Setup(packed, 2, assets=assets))


def test_methods_do_what_they_say(
    tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach], assets: Assets
) -> None:
    backbone, suite = tiny_backbone(), tiny_suite()
    ran = {name: reports(name, backbone, suite, assets)[0] for name in methods.names()}
    verified = {name: any(report.verified for report in seen) for name, seen in ran.items()}
    layers = {name: {report.layers_run for report in seen} for name, seen in ran.items()}
    assert layers["full"] == {8}
    assert layers["dysl"] == {1} and not verified["dysl"]
    assert verified["dysl-paper"] and verified["dysl-paper-no-pre"] and not verified["dysl-paper-no-post"]
    assert max(layers["dysl-paper-no-post"]) == 8 and min(layers["dysl-paper-no-post"]) == 3
    assert layers["dysl-paper-no-pre"] == {3, 10}
    assert layers["dysl-paper-controllers"] == {3} and not verified["dysl-paper-controllers"]
    assert 3 <= min(layers["random-skip"]) < max(layers["random-skip"]) <= 8
    assert 3 <= min(layers["random-skip-layers"]) < max(layers["random-skip-layers"]) <= 8
    assert layers["random-skip-adapters"] == {1, 2, 4, 8}
    assert layers["static"] == {6}, "of its own exits the one nearest to five layers"
    assert layers["flexidepth"] == {1} and layers["flexidepth-tokens"] == {0}, "no layer is static"
    assert layers["deer"] == {6}, "half of the layers is less than it can run"
    assert layers["mole"] == {4}
    assert layers["divprune"] == layers["fastv"] == layers["vla-cache"] == layers["specprune"] == {8}
    assert {sum(report.tokens) for report in ran["full"]} == {8 * 13}
    assert {report.tokens for report in ran["divprune"]} == {(11,) * 8}, "two of four visual tokens"
    assert {report.tokens for report in ran["fastv"]} == {(13, 13) + (11,) * 6}
    assert {report.tokens for report in ran["sparsevlm"]} == {(13,) + (12,) * 3 + (11,) * 4}
    assert {report.tokens for report in ran["efficientvla"]} == {(13,) + (11,) * 6}
    assert {report.jumps for report in ran["efficientvla"]} == {((1, 2),)}
    first, *later = [report.tokens for report in ran["specprune"]]
    assert first == (13,) * 8 and all(tokens[:2] == (13, 13) and tokens[2] < 13 for tokens in later)
    assert layers["dysl+specprune"] == {1}
    first, *later = [report.tokens for report in ran["dysl-paper+specprune"]]
    assert first == (13,) * 3 and min(map(min, later)) < 13 and verified["dysl-paper+specprune"]
    assert not verified["dysl-paper-no-post+specprune"] and min(layers["dysl-paper-no-post+specprune"]) == 3
    assert layers["oracle"] == {1} and all(report.consulted == () for report in ran["oracle"])


@pytest.mark.parametrize("name", [name for name, method in methods.METHODS.items() if method.dial is not None])
def test_a_dial_goes_from_all_layers_to_few_and_never_back(
    tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach], assets: Assets, name: str
) -> None:
    """Each method as at its default dial, on the first inference: later ones begin in other states."""
    paper, flexidepth = assets.bundle(PAPER), assets.bundle(FLEXIDEPTH)
    assert paper is not None and flexidepth is not None
    controllers = Paper(paper.modules, GuidanceSettings(-1.0, 0.0, tau=0.5))
    routers = Routers(flexidepth.modules)
    decided = {"dysl-paper": controllers, "flexidepth": routers, "flexidepth-tokens": routers}
    assets = replace(assets, bundles={**assets.bundles, **decided})
    dial = methods.method(name).dial
    assert dial is not None
    layers = [
        reports(name, tiny_backbone(), tiny_suite(), assets, place, steps=1)[0][0].layers_run
        for place in np.linspace(dial.low, dial.high, 25)
    ]
    fewest = {
        "dysl": 1,
        "dysl+specprune": 1,
        "oracle": 1,
        "flexidepth": 1,
        "flexidepth-tokens": 0,
        "deer": 6,
        "mole": 1,
    }
    assert layers[0] == 8 and layers[-1] == fewest.get(name, 3)
    assert layers == sorted(layers, reverse=True)


@pytest.mark.parametrize("name", ["divprune", "fastv", "sparsevlm", "efficientvla", "vla-cache", "specprune"])
def test_nothing_to_prune_is_said_at_once(tiny_backbone: type[TinyBackbone], assets: Assets, name: str) -> None:
    backbone = tiny_backbone()
    methods.build(name, Setup(backbone, 2, assets=assets))
    backbone.spec = replace(backbone.spec, visual_tokens=False)
    with pytest.raises(ConfigError, match=f"'{name}' prunes visual tokens, and the layers of TinyBackbone see none"):
        methods.build(name, Setup(backbone, 2, assets=assets))
