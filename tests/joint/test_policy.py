from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from dyslctl import methods
from dyslctl.dysl.exit_policy import ExitSettings
from dyslctl.dysl.exits import ExitModules, ExitSizes
from dyslctl.dysl.guidance import GuidanceSettings
from dyslctl.dysl.partition import LayerPartition, tail
from dyslctl.dysl.skip_modules import SkipModules, SkipSizes
from dyslctl.engine import forward
from dyslctl.joint.policy import JointPolicy
from dyslctl.joint.skipping import CAUTION
from dyslctl.method_assets import Assets, Setup
from dyslctl.pruning.frames import frame_of
from dyslctl.pruning.settings import PruningSettings
from dyslctl.pruning.specprune import SpecPruneSchedule
from dyslctl.pruning.specprune_policy import Lookout
from dyslctl.types import LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

EARLY, LATE = LayerPartition(8, (0, 3, 7)), LayerPartition(8, (0, 1, 4, 7))
"""Tokens are first pruned behind layers 0 and 3, or 0 and 1: behind a layer that may be skipped, or before any."""
COVERING = PruningSettings(alpha=20, layer_share=1.0)
PRUNED = PruningSettings(local_coarse=10, local_fine=200)
"""A token of four in each local layer where the motion is coarse, two or three where it is fine."""
JUMPY = GuidanceSettings(-1e-4, 0.0, k=1, tau=0.0)
"""Every controller skips; the least fall is verified."""


@dataclass(frozen=True)
class Paper:
    modules: SkipModules
    guidance: GuidanceSettings
    execute_horizon: int | None = None


@dataclass(frozen=True)
class Exits:
    modules: ExitModules
    settings: ExitSettings
    execute_horizon: int = 2


def assets(partition: LayerPartition = LATE, guidance: GuidanceSettings = JUMPY, tolerance: float = 99.0) -> Assets:
    torch.manual_seed(0)
    modules = SkipModules(partition, SkipSizes.mini(16))
    exits = ExitModules(tail(partition), [4, 6], ExitSizes(16, 4, 3, adapter_rank=4))
    for adapter in (*modules.adapters.values(), *exits.adapters.values()):
        torch.nn.init.normal_(adapter.get_parameter("up.weight"))
    made = Exits(exits.eval(), ExitSettings(tolerance))
    return Assets(partition, bundles={"dysl": made, "dysl-paper": Paper(modules.eval(), guidance)})


def observation(number: int) -> Observation:
    rng = np.random.default_rng(number)
    image = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
    return Observation({"agent": image}, "go and reach blue", rng.uniform(-1, 1, 2).astype(np.float32))


def ran(name: str, backbone: TinyBackbone, having: Assets, pruning: PruningSettings, steps: int = 8) -> list[Any]:
    policy = methods.build(name, Setup(backbone, 2, assets=having, pruning=pruning))
    policy.reset()
    found = []
    for number in range(steps):
        chunk = policy.select_action(observation(number))
        found.append((chunk.actions.tolist(), policy.last.layers, policy.last.tokens, policy.last.verified))
    return found


def joint(having: Assets, backbone: TinyBackbone, name: str, pruning: PruningSettings = PRUNED) -> JointPolicy:
    policy = methods.build(name, Setup(backbone, 2, assets=having, pruning=pruning))
    assert isinstance(policy, JointPolicy)
    policy.reset()
    return policy


@pytest.mark.parametrize("name", ["dysl", "dysl-paper"])
@pytest.mark.parametrize("partition", [EARLY, LATE])
def test_budgets_that_cover_everything_are_the_skipping_method_bit_for_bit(
    tiny_backbone: type[TinyBackbone], name: str, partition: LayerPartition
) -> None:
    backbone, having = tiny_backbone(), assets(partition)
    alone = ran(name, backbone, having, COVERING)
    assert ran(f"{name}+specprune", backbone, having, COVERING) == alone
    assert any(len(layers) != 8 for _, layers, _, _ in alone), "it skips"


@pytest.mark.parametrize("name", ["dysl", "dysl-paper"])
def test_without_skipping_it_is_specprune_bit_for_bit(tiny_backbone: type[TinyBackbone], name: str) -> None:
    backbone, having = tiny_backbone(), assets(guidance=replace(JUMPY, tau=1.0), tolerance=-math.inf)
    alone = ran("specprune", backbone, having, PRUNED)
    assert ran(f"{name}+specprune", backbone, having, PRUNED) == alone
    assert min(tokens[-1] for _, _, tokens, _ in alone) < 15, "it prunes"
    full = [row[0] for row in ran("full", backbone, having, PRUNED)]
    assert [row[0] for row in ran(f"{name}+specprune", backbone, having, COVERING)] == full


@pytest.mark.parametrize("name", ["dysl", "dysl-paper"])
def test_both_save(tiny_backbone: type[TinyBackbone], name: str) -> None:
    """Layers and, from the second inference on, tokens; what is static, and only that, is asked for its attention."""
    asked = set()

    class Watched(tiny_backbone):  # type: ignore[misc, valid-type]
        def attention_rows(self, layer: int, *rest: Any) -> torch.Tensor:
            asked.add(layer)
            return super().attention_rows(layer, *rest)  # type: ignore[no-any-return]

    coarse = replace(PRUNED, fine_translation=1e-9, similarity=-1.0)
    rows = ran(f"{name}+specprune", Watched(), assets(), coarse)
    assert all(min(tokens) < max(tokens) for _, _, tokens, _ in rows[1:])
    assert min(len(layers) for _, layers, _, _ in rows) == 4
    assert asked <= ({0, 1, 2, 3, 7} if name == "dysl" else {0, 1, 4, 7})


@pytest.mark.parametrize("partition", [EARLY, LATE])
@pytest.mark.parametrize("tokens", ["fine", "full"])
@pytest.mark.parametrize("fine_translation", [1e-6, 9.0])
def test_a_second_prediction_is_a_whole_pass_on_the_tokens_it_asks_for_bit_for_bit(
    tiny_backbone: type[TinyBackbone], partition: LayerPartition, tokens: Any, fine_translation: float
) -> None:
    """Whether the first pass was coarse or fine: begun anew, or resumed at the first skip."""
    settings = replace(PRUNED, verify_tokens=tokens, fine_translation=fine_translation, fine_rotation=9.0)
    backbone = tiny_backbone()
    policy, seen = joint(assets(partition), backbone, "dysl-paper+specprune", settings), 0
    lookout = Lookout(settings, backbone, 2)
    for number in range(12):
        before = policy.history
        chunk = policy.select_action(observation(number)).actions
        if policy.last.verified:
            seen += 1
            schedule = SpecPruneSchedule(backbone.attention_rows, settings, policy.schedule.tokens.depths)
            if tokens == "fine":
                schedule.outlook = lookout.outlook(before.tokens, frame_of(observation(number).images), "fine")
            with torch.inference_mode():
                state = LayerState.of(backbone.encode([observation(number)]))
                trace = forward(backbone, state, schedule)
                expected = backbone.decode_action(backbone.predict(state))[0].actions[:2]
            assert np.array_equal(chunk, expected)
            assert policy.last.tokens[-1] == trace.tokens[-1]
    assert seen >= 2


def test_a_global_set_of_few_layers_is_not_trusted_and_none_is_carried_for_ever(
    tiny_backbone: type[TinyBackbone],
) -> None:
    """Continuity falls are ignored (eta_1), so every pass skips; after two carried sets one runs every layer."""
    having = assets(guidance=GuidanceSettings(-1e9, 1e9, tau=0.0))
    policy = joint(having, tiny_backbone(), "dysl-paper+specprune", replace(PRUNED, refresh=1.0, max_age=2))
    layers, ages, sets = [], [], []
    for number in range(9):
        policy.select_action(observation(number))
        layers.append(policy.last.layers_run)
        ages.append(policy.history.age)
        sets.append(policy.history.tokens.found)
    assert layers == [4, 4, 4, 4, 8, 4, 4, 4, 8]
    assert ages == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert sets[0] is sets[3] is not sets[4] and sets[4] is sets[7] is not sets[8]


@pytest.mark.parametrize("agreement", ["independent", "or"])
def test_an_alarm_ends_when_its_reason_does(tiny_backbone: type[TinyBackbone], agreement: Any) -> None:
    """An exit's damage is three times the tolerance once, then 0.55 of it: worth the exit, but not to the cautious."""
    coarse = replace(PRUNED, agreement=agreement, fine_translation=1e-9, fine_rotation=1e-9, similarity=-1.0)
    policy = joint(assets(tolerance=0.0), tiny_backbone(), "dysl+specprune", coarse)
    damages = iter([3.0, *[0.55] * 9])
    policy.schedule.skip._planner = lambda _: torch.full((1, 2), math.log(next(damages)))  # type: ignore[attr-defined]
    layers = []
    for number in range(6):
        policy.select_action(observation(number))
        layers.append(policy.last.layers_run)
    assert layers == ([8, 4, 4, 4, 4, 4] if agreement == "independent" else [8, 8, 4, 4, 4, 4])


def test_any_set_is_trusted_where_refresh_is_0(tiny_backbone: type[TinyBackbone]) -> None:
    having = assets(guidance=GuidanceSettings(-1e9, 1e9, tau=0.0))
    policy = joint(having, tiny_backbone(), "dysl-paper+specprune", replace(PRUNED, refresh=0.0))
    sets = []
    for number in range(4):
        policy.select_action(observation(number))
        sets.append(policy.history.tokens.found)
    assert len({id(found) for found in sets}) == 4 and policy.history.age == 0


def test_planned_exits_leave_a_global_set_that_is_always_trusted(tiny_backbone: type[TinyBackbone]) -> None:
    """It comes from layers before the exit, all of which ran."""
    policy = joint(assets(), tiny_backbone(), "dysl+specprune", replace(PRUNED, refresh=1.0))
    for number in range(3):
        policy.select_action(observation(number))
    assert policy.history.age == 0


@pytest.mark.parametrize(("agreement", "halved"), [("or", True), ("and", True), ("independent", False)])
def test_a_cautious_planner_accepts_half_the_damage(
    tiny_backbone: type[TinyBackbone], agreement: Any, halved: bool
) -> None:
    """No exit is worth it, which alarms; and the arm is slow. Both agree from the second inference on."""
    settings = replace(PRUNED, agreement=agreement, fine_translation=9.0, fine_rotation=9.0)

    class Level(tiny_backbone):  # type: ignore[misc, valid-type]
        def predict(self, state: LayerState) -> torch.Tensor:
            return super().predict(state) * torch.tensor([1.0, 0.0, 1.0])  # type: ignore[no-any-return]

    policy = joint(assets(tolerance=-50.0), Level(), "dysl+specprune", settings)
    for number in range(2):
        policy.select_action(observation(number))
    schedule: Any = policy.schedule.skip
    assert policy.last.layers_run == 8 and policy.history.alarms == (True,)
    assert schedule.tolerance == pytest.approx(-50.0 - CAUTION if halved else -50.0)


@pytest.mark.parametrize(("agreement", "moved"), [("or", True), ("and", False), ("independent", True)])
def test_allow_points_take_what_is_not_important_for_no_fall(
    tiny_backbone: type[TinyBackbone], agreement: Any, moved: bool
) -> None:
    """Continuity falls, the arm is fast: by ``and`` nothing is important, and no controller is switched off."""
    settings = replace(PRUNED, agreement=agreement, fine_translation=1e-9, fine_rotation=1e-9)
    policy = joint(assets(guidance=replace(JUMPY, eta_2=1e9)), tiny_backbone(), "dysl-paper+specprune", settings)
    inner: Any = policy._skipping.policy
    for number in range(8):
        policy.select_action(observation(number))
    assert (inner.guidance.allow_points.protected_fraction > 0) == moved


def test_a_fall_moves_the_allow_points_at_once(tiny_backbone: type[TinyBackbone]) -> None:
    """``or`` is nowhere less cautious than the guidance alone, be the arm as fast as it likes."""
    moved: dict[str, tuple[int, float]] = {}
    for agreement in ("or", "independent"):
        chosen: Any = agreement
        settings = replace(PRUNED, agreement=chosen, fine_translation=1e-9, fine_rotation=1e-9)
        guidance = assets(guidance=replace(JUMPY, eta_2=1e9))
        policy = joint(guidance, tiny_backbone(), "dysl-paper-no-post+specprune", settings)
        inner: Any = policy._skipping.policy
        for number in range(8):
            policy.select_action(observation(number))
            protected = inner.guidance.allow_points.protected_fraction
            if protected:
                moved[agreement] = number, protected
                break
    assert moved["or"] == moved["independent"]


def test_the_same_past_gives_the_same_prediction(tiny_backbone: type[TinyBackbone]) -> None:
    """Its history is a value; the exits remember the last chunk, which is the same here."""
    policy = joint(assets(), tiny_backbone(), "dysl+specprune")
    for number in range(3):
        policy.select_action(observation(number))
    policy.select_action(observation(3))
    before, found = policy.history, []
    for _ in range(2):
        policy.history = before
        policy.select_action(observation(4))
        found.append((policy.last.tokens, policy.schedule.tokens.outlook is not None))
    assert found[0] == found[1]


def test_a_twin_has_a_past_of_its_own(tiny_backbone: type[TinyBackbone]) -> None:
    policy = joint(assets(), tiny_backbone(), "dysl-paper+specprune")
    twin = policy.twin()
    assert twin.backbone is policy.backbone
    assert twin.schedule.skip is twin._skipping.policy.schedule is not policy.schedule.skip
    for number in range(3):
        policy.select_action(observation(number))
    twin.reset()
    policy.reset()
    assert twin.history.tokens.found is None
    for number in range(3):
        same = twin.select_action(observation(number)).actions
        assert np.array_equal(same, policy.select_action(observation(number)).actions)
