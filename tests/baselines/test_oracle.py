from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from dyslctl.baselines.oracle import OracleExit
from dyslctl.dysl.exit_policy import ExitPolicy
from dyslctl.dysl.exit_schedule import ExitLadder, FixedExit
from dyslctl.dysl.exits import DAMAGE_FLOOR, ExitModules, ExitSizes, relative_damage
from dyslctl.dysl.partition import LayerPartition
from dyslctl.engine import FullSchedule, LayerSchedule, forward
from dyslctl.types import LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

EXITS, EXECUTED = (2, 3, 5), 2


@pytest.fixture
def backbone(tiny_backbone: type[TinyBackbone]) -> TinyBackbone:
    return tiny_backbone()


@pytest.fixture
def ladder() -> ExitLadder:
    """Adapters that disturb the state, the later the less."""
    torch.manual_seed(1)
    exits = ExitModules(LayerPartition(8, (0, 1)), EXITS, ExitSizes(16, 4, 3, adapter_rank=4))
    for layer, std in zip(EXITS, (2.0, 0.5, 0.1), strict=True):
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


@torch.inference_mode()
def test_the_cheapest_exit_whose_true_damage_is_below_the_threshold(
    backbone: TinyBackbone, ladder: ExitLadder, observations: list[Observation]
) -> None:
    memory, taken = torch.linspace(-1, 1, 13)[None], set()
    for observation in observations:
        found = damages(backbone, ladder, memory, observation)
        for threshold in (-9.0, *(damage + shift for damage in found for shift in (-1e-3, 1e-3)), 9.0):
            expected = next((layer for layer, damage in zip(EXITS, found, strict=True) if damage < threshold), 8)
            oracle = OracleExit(ladder, backbone, threshold, EXECUTED)
            oracle.memory = memory
            trace = forward(backbone, LayerState.of(backbone.encode([observation])), oracle)
            assert trace.layers_run == list(range(expected))
            taken.add(expected)
    assert taken == {2, 3, 5, 8}


@torch.inference_mode()
def test_it_judges_with_the_memory_that_the_exit_will_have(
    backbone: TinyBackbone, ladder: ExitLadder, observations: list[Observation]
) -> None:
    """Between the damages with and without a memory lies a threshold that tells the two apart."""
    without, with_ = torch.zeros(1, 13), torch.ones(1, 13)
    each = [damages(backbone, ladder, memory, observations[0])[0] for memory in (without, with_)]
    oracle = OracleExit(ladder, backbone, sum(each) / 2, EXECUTED)
    chosen = []
    for memory in (without, with_):
        oracle.memory = memory
        chosen.append(forward(backbone, LayerState.of(backbone.encode([observations[0]])), oracle).layers_run == [0, 1])
    assert chosen == [damage < sum(each) / 2 for damage in each] and chosen[0] != chosen[1]


@torch.inference_mode()
def test_trying_out_leaves_the_state_where_it_is(
    backbone: TinyBackbone, ladder: ExitLadder, observations: list[Observation]
) -> None:
    for observation in observations[:2]:
        state = LayerState.of(backbone.encode([observation]))
        for layer in range(2):
            state.hidden = backbone.run_layer(layer, state)
        before, values = state.fork(), state.hidden.clone()
        oracle = OracleExit(ladder, backbone, -9.0, EXECUTED)
        oracle.memory = torch.zeros(1, 13)
        oracle.start(state)
        assert oracle.choose(state) == 8
        assert torch.equal(state.hidden, values)
        assert state.hidden is before.hidden and state.kinds is before.kinds and state.positions is before.positions
        assert state.mask is before.mask and state.context is before.context


def test_as_a_policy_it_acts_through_the_exit_it_takes(
    backbone: TinyBackbone, ladder: ExitLadder, observations: list[Observation]
) -> None:
    """Only the layers of that exit count, and no planner is asked."""
    policy = ExitPolicy(backbone, OracleExit(ladder, backbone, 9.0, EXECUTED), EXECUTED)
    fixed = ExitPolicy(backbone, FixedExit(ladder, 2), EXECUTED)
    policy.reset()
    fixed.reset()
    for observation in observations[:4]:
        assert np.array_equal(policy.select_action(observation).actions, fixed.select_action(observation).actions)
        assert (policy.last.layers, policy.last.consulted) == ((0, 1), ())
    twin = policy.twin()
    assert twin.schedule is not policy.schedule
    twin.reset()
    fixed.reset()
    assert np.array_equal(twin.select_action(observations[0]).actions, fixed.select_action(observations[0]).actions)
