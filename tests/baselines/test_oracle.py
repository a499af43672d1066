from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from dyslctl.baselines.oracle import OraclePolicy
from dyslctl.dysl.exit_policy import ExitPolicy
from dyslctl.dysl.exit_schedule import ExitLadder, FixedExit, worthwhile
from dyslctl.dysl.exits import DAMAGE_FLOOR, ExitModules, ExitSizes, relative_damage
from dyslctl.dysl.partition import LayerPartition
from dyslctl.dysl.plan_memory import remember
from dyslctl.engine import FullSchedule, LayerSchedule, forward
from dyslctl.policy import full_policy
from dyslctl.types import LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

EXITS, EXECUTED = (2, 3, 5), 2
TOLERANCES = np.linspace(-9, 9, 181).tolist()


@pytest.fixture
def backbone(tiny_backbone: type[TinyBackbone]) -> TinyBackbone:
    return tiny_backbone()


@pytest.fixture
def ladder() -> ExitLadder:
    """Adapters that disturb the state, the later the less."""
    torch.manual_seed(1)
    exits = ExitModules(LayerPartition(8, (0, 1)), EXITS, ExitSizes(16, 4, 3, adapter_rank=4))
    for layer, std in zip(EXITS, (8.0, 2.0, 0.02), strict=True):
        torch.nn.init.normal_(exits.adapter(layer).up.weight, std=std)
    return ExitLadder(exits.eval().requires_grad_(False))


@pytest.fixture
def observations() -> list[Observation]:
    """With and without padding."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    words = ("go and reach blue", "reach red")
    return [Observation({"agent": i}, words[n % 2], rng.random(2, np.float32)) for n, i in enumerate(images)]


def actions(backbone: TinyBackbone, schedule: LayerSchedule, observation: Observation) -> Tensor:
    state = LayerState.of(backbone.encode([observation]))
    forward(backbone, state, schedule)
    return backbone.predict(state)


def damages(backbone: TinyBackbone, ladder: ExitLadder, memory: Tensor, observation: Observation) -> list[float]:
    """The true log damage of each exit, from whole passes that begin at layer 0."""
    full, found = actions(backbone, FullSchedule(), observation), []
    for layer in EXITS:
        leave = FixedExit(ladder, layer)
        leave.memory = memory
        predicted = actions(backbone, leave, observation)
        found.append((relative_damage(predicted, full, EXECUTED, 2) + DAMAGE_FLOOR).log().item())
    return found


def alone(backbone: TinyBackbone, ladder: ExitLadder, tolerance: float) -> OraclePolicy:
    policy = OraclePolicy(backbone, ladder, tolerance, EXECUTED)
    policy.reset()
    return policy


@torch.inference_mode()
def test_true_damage_is_weighed_against_layers(
    backbone: TinyBackbone, ladder: ExitLadder, observations: list[Observation]
) -> None:
    """Only the layers of that exit count, and no planner is asked."""
    nothing, taken = torch.zeros(1, 13), set()
    for observation in observations:
        found = damages(backbone, ladder, nothing, observation)
        for tolerance in TOLERANCES[::5]:
            expected = worthwhile(found, tolerance, EXITS, 8)
            policy = alone(backbone, ladder, tolerance)
            policy.select_action(observation)
            assert (policy.last.layers, policy.last.consulted) == (tuple(range(expected)), ())
            taken.add(expected)
    assert taken == {2, 3, 5, 8}


@torch.inference_mode()
def test_it_judges_with_the_memory_that_the_exit_has(
    backbone: TinyBackbone, ladder: ExitLadder, observations: list[Observation]
) -> None:
    """At a tolerance that tells the damages with and without a memory apart."""
    before = alone(backbone, ladder, 9.0)
    before.select_action(observations[1])
    assert before.last.predicted is not None
    memory = torch.from_numpy(remember(before.last.predicted.normalized, 13))[None]
    without, with_ = (damages(backbone, ladder, each, observations[0]) for each in (torch.zeros(1, 13), memory))
    tolerances = [t for t in TOLERANCES if worthwhile(without, t, EXITS, 8) != worthwhile(with_, t, EXITS, 8)]
    assert tolerances
    for begins_here, found in ((True, without), (False, with_)):
        policy = alone(backbone, ladder, 9.0)
        if not begins_here:
            policy.select_action(observations[1])
        policy.tolerance = tolerances[0]
        policy.select_action(observations[0])
        assert policy.last.layers == tuple(range(worthwhile(found, tolerances[0], EXITS, 8)))


@pytest.mark.parametrize("layer", EXITS)
def test_it_acts_through_the_exit_it_takes(
    backbone: TinyBackbone, ladder: ExitLadder, observations: list[Observation], layer: int
) -> None:
    """A resumed pass gives the bits of one that ran through."""
    fixed = ExitPolicy(backbone, FixedExit(ladder, layer), EXECUTED)
    fixed.reset()
    found = damages(backbone, ladder, torch.zeros(1, 13), observations[0])
    policy = alone(backbone, ladder, next(t for t in TOLERANCES if worthwhile(found, t, EXITS, 8) == layer))
    chunk = policy.select_action(observations[0])
    assert policy.last.layers == tuple(range(layer))
    assert np.array_equal(chunk.actions, fixed.select_action(observations[0]).actions)


def test_it_gives_up_when_every_exit_does_harm(
    backbone: TinyBackbone, ladder: ExitLadder, observations: list[Observation]
) -> None:
    full = full_policy(backbone, EXECUTED)
    full.reset()
    expected = full.select_action(observations[0]).actions
    assert np.array_equal(alone(backbone, ladder, -9.0).select_action(observations[0]).actions, expected)


def test_side_by_side_it_acts_as_alone(
    backbone: TinyBackbone, ladder: ExitLadder, observations: list[Observation]
) -> None:
    policy = alone(backbone, ladder, 9.0)
    twin = policy.twin()
    twin.reset()
    for observation in observations[:3]:
        assert np.array_equal(policy.select_action(observation).actions, twin.select_action(observation).actions)


def test_a_head_with_memory_remembers_the_prediction_that_is_taken(
    tiny_backbone: type[TinyBackbone], ladder: ExitLadder, observations: list[Observation]
) -> None:
    """Nothing is worth any damage: the full model's actions, in both regimes of the head."""
    backbone = tiny_backbone(memory=True)
    policy, full = OraclePolicy(backbone, ladder, -99.0, EXECUTED), full_policy(backbone, EXECUTED)
    policy.reset()
    tried = [policy.select_action(observation).actions for observation in observations * 2]
    full.reset()
    expected = [full.select_action(observation).actions for observation in observations * 2]
    assert all(map(np.array_equal, tried, expected))
