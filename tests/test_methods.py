from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from dyslctl import methods
from dyslctl.dysl.guidance import GuidanceSettings
from dyslctl.dysl.partition import LayerPartition
from dyslctl.dysl.skip_modules import SkipModules, SkipSizes
from dyslctl.errors import ConfigError
from dyslctl.policy import StepReport

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach


@dataclass(frozen=True)
class Assets:
    modules: SkipModules
    guidance: GuidanceSettings


@pytest.fixture
def assets() -> Assets:
    """Modules that always skip, with adapters that change something."""
    torch.manual_seed(0)
    modules = SkipModules(LayerPartition(8, (0, 3, 7)), SkipSizes.mini(16))
    for layer in modules.partition.dynamic_layers:
        torch.nn.init.normal_(modules.adapter(layer).up.weight)
    return Assets(modules.eval(), GuidanceSettings(-1e-4, 0.0, k=1, tau=0.0))


def reports(
    name: str, backbone: TinyBackbone, suite: TinyReach, assets: Assets, steps: int = 20
) -> tuple[list[StepReport], np.ndarray]:
    policy = methods.build(name, backbone, assets, execute_horizon=2, target_layers=5.0)
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
        "dysl-no-pre",
        "dysl-no-post",
        "random-skip",
        "random-skip-adapters",
    ]


def test_what_each_method_needs() -> None:
    assert [name for name in methods.names() if not methods.needs_bundle(name)] == ["full"]
    assert [name for name in methods.names() if methods.needs_target(name)] == ["random-skip", "random-skip-adapters"]


def test_an_unknown_name_gets_a_suggestion(tiny_backbone: type[TinyBackbone]) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'dysl-paper'"):
        methods.build("dysl-papr", tiny_backbone(), execute_horizon=2)


def test_a_missing_bundle_or_target_is_named(tiny_backbone: type[TinyBackbone], assets: Assets) -> None:
    with pytest.raises(ConfigError, match="trained skip modules") as caught:
        methods.build("dysl", tiny_backbone(), execute_horizon=2)
    assert caught.value.hint is not None and "distill" in caught.value.hint
    with pytest.raises(ConfigError, match="layers to match"):
        methods.build("random-skip", tiny_backbone(), assets, execute_horizon=2)


def test_methods_do_what_they_say(
    tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach], assets: Assets
) -> None:
    backbone, suite = tiny_backbone(), tiny_suite()
    ran = {name: reports(name, backbone, suite, assets)[0] for name in methods.names()}
    verified = {name: any(report.verified for report in seen) for name, seen in ran.items()}
    layers = {name: {report.layers_run for report in seen} for name, seen in ran.items()}
    assert layers["full"] == {8}
    assert verified["dysl"] and verified["dysl-no-pre"] and not verified["dysl-no-post"]
    assert max(layers["dysl-no-post"]) == 8 and min(layers["dysl-no-post"]) == 3
    assert layers["dysl-no-pre"] == {3, 10}
    assert 3 <= min(layers["random-skip"]) < max(layers["random-skip"]) <= 8


def test_random_skips_coins_do_not_depend_on_the_adapters(
    tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach], assets: Assets
) -> None:
    backbone, suite = tiny_backbone(), tiny_suite()
    plain, plain_actions = reports("random-skip", backbone, suite, assets)
    adapted, adapted_actions = reports("random-skip-adapters", backbone, suite, assets)
    assert [r.layers for r in plain] == [r.layers for r in adapted]
    assert not np.array_equal(plain_actions, adapted_actions)
