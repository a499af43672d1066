from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dyslctl.baselines.deer import (
    ConsistencyPolicy,
    differences,
    mean_layers,
    shares,
    solve_thresholds,
    thresholds_for,
)
from dyslctl.dysl.exit_schedule import ExitLadder
from dyslctl.dysl.exits import ExitModules, ExitSizes
from dyslctl.dysl.partition import LayerPartition
from dyslctl.policy import full_policy
from dyslctl.types import LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

NEVER, ALWAYS = -math.inf, math.inf


@pytest.fixture
def ladder() -> ExitLadder:
    """Exits before layers 1, 3 and 5 of 8; their adapters change something."""
    torch.manual_seed(0)
    sizes = ExitSizes(16, 4, 3, adapter_rank=16, planner_width=8, remembers=False)
    made = ExitModules(LayerPartition(8, (0,)), (1, 3, 5), sizes)
    for layer in made.exits:
        torch.nn.init.normal_(made.adapter(layer).up.weight, std=0.2)
    return ExitLadder(made.eval().requires_grad_(False))


@pytest.fixture
def observations() -> list[Observation]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (15, 8, 8, 3), dtype=np.uint8)
    return [Observation({"agent": image}, "reach red", rng.random(2, np.float32)) for image in images]


def test_differences_by_hand() -> None:
    """Of two executed actions the poses differ by (3, 4) and 0: sqrt((9 + 16) / 4). The gripper is not compared."""
    first, second = torch.zeros(3, 3), torch.zeros(3, 3)
    second[0] = torch.tensor([3.0, 4.0, 9.0])
    second[2] = 7.0
    assert differences(torch.stack([first, second]), 2, 2).tolist() == [2.5]
    three = torch.stack([first, second, second])[:, None].expand(-1, 5, -1, -1)
    assert differences(three, 2, 2).tolist() == [[2.5] * 5, [0.0] * 5]


def test_shares_by_hand() -> None:
    assert shares(math.log(2), 3).tolist() == pytest.approx([1 / 7, 2 / 7, 4 / 7])
    assert shares(0.0, 4).tolist() == pytest.approx([0.25] * 4)
    assert shares(-40.0, 3)[0] == pytest.approx(1.0) and shares(40.0, 3)[2] == pytest.approx(1.0)


def test_thresholds_by_hand() -> None:
    """Half leave at the first place, with 0.1 and 0.2; of 0.5 and 0.3 the smaller leaves at the second."""
    deltas = np.array([[0.1, 9.0], [0.4, 0.5], [0.2, 9.0], [0.3, 0.3]])
    assert solve_thresholds(deltas, np.array([0.5, 0.25, 0.25])) == [0.2, 0.3]
    assert mean_layers(deltas, [0.2, 0.3], [3, 5], 8) == (3 + 3 + 5 + 8) / 4
    assert solve_thresholds(deltas, np.array([0.0, 0.0, 1.0])) == [NEVER, NEVER]
    assert solve_thresholds(deltas, np.array([1.0, 0.0, 0.0])) == [ALWAYS, NEVER]
    assert solve_thresholds(deltas, np.array([0.0, 1.0, 0.0])) == [NEVER, ALWAYS]


drawn = st.integers(0, 2**31).map(lambda seed: np.random.default_rng(seed).gamma(1.0, 0.1, (400, 3)))


@given(deltas=drawn, log_ratio=st.floats(-3, 3))
def test_the_shares_that_leave_are_those_asked_for(deltas: np.ndarray, log_ratio: float) -> None:
    wanted = shares(log_ratio, 4)
    thresholds = solve_thresholds(deltas, wanted)
    leaves = np.column_stack([deltas <= thresholds, np.ones(400, bool)]).argmax(1)
    assert np.bincount(leaves, minlength=4) / 400 == pytest.approx(wanted, abs=1.01 / 400)


@given(deltas=drawn, ratios=st.tuples(st.floats(-5, 5), st.floats(-5, 5)))
def test_a_larger_ratio_runs_no_fewer_layers(deltas: np.ndarray, ratios: tuple[float, float]) -> None:
    fewer, more = (
        mean_layers(deltas, solve_thresholds(deltas, shares(ratio, 4)), [3, 5, 7], 8) for ratio in sorted(ratios)
    )
    assert fewer <= more


@given(deltas=drawn, layers=st.floats(3, 8))
def test_the_solver_meets_its_budget_on_the_data_it_is_solved_from(deltas: np.ndarray, layers: float) -> None:
    thresholds = thresholds_for(deltas, [3, 5, 7], 8, layers)
    assert mean_layers(deltas, thresholds, [3, 5, 7], 8) == pytest.approx(layers, abs=0.03)


def test_budgets_out_of_reach_give_the_ends() -> None:
    deltas = np.random.default_rng(0).random((50, 2))
    assert thresholds_for(deltas, [3, 5], 8, 0.0) == [ALWAYS, NEVER]
    assert thresholds_for(deltas, [3, 5], 8, 8.0) == [NEVER, NEVER]


def test_exits_that_never_agree_leave_the_full_model_bit_for_bit(
    tiny_backbone: type[TinyBackbone], ladder: ExitLadder, observations: list[Observation]
) -> None:
    backbone = tiny_backbone()
    policy, full = ConsistencyPolicy(backbone, ladder, [NEVER, NEVER], 2), full_policy(backbone, 2)
    for observation in observations:
        assert np.array_equal(policy.select_action(observation).actions, full.select_action(observation).actions)
        assert policy.last.layers == tuple(range(8)) and policy.last.jumps == ()
        assert policy.last.tokens == full.last.tokens
        assert [each.layer for each in policy.last.consulted] == [3, 5]


def test_it_leaves_at_the_first_agreement_and_later_layers_do_not_run(
    tiny_backbone: type[TinyBackbone],
    ladder: ExitLadder,
    observations: list[Observation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = tiny_backbone()
    executed: list[int] = []
    run = backbone.run_layer

    def counted(layer: int, state: LayerState) -> Tensor:
        executed.append(layer)
        return run(layer, state)

    monkeypatch.setattr(backbone, "run_layer", counted)
    policy = ConsistencyPolicy(backbone, ladder, [NEVER, ALWAYS], 2)
    policy.select_action(observations[0])
    assert executed == [0, 1, 2, 3, 4] == list(policy.last.layers), "each layer once, up to the exit"
    assert policy.last.jumps == ((5, 8),) and policy.last.reprediction_ms == 0.0
    delta = policy.last.consulted[0].answer
    for limit, layers in ((delta, 3), (np.nextafter(delta, 0), 5)):
        policy.thresholds = (float(limit), ALWAYS)
        policy.select_action(observations[0])
        assert policy.last.layers_run == layers, "left at a difference equal to the threshold, not above it"


def test_a_head_with_memory_remembers_one_prediction_an_inference(
    tiny_backbone: type[TinyBackbone], ladder: ExitLadder, observations: list[Observation]
) -> None:
    backbone = tiny_backbone(memory=True)
    policy, full = ConsistencyPolicy(backbone, ladder, [NEVER, NEVER], 2), full_policy(backbone, 2)
    policy.reset()
    tried = [policy.select_action(observation).actions for observation in observations]
    full.reset()
    assert all(np.array_equal(a, full.select_action(o).actions) for a, o in zip(tried, observations, strict=True)), (
        "in both regimes of the head, before and after its window is full"
    )
