from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from dyslctl.baselines.flexidepth import (
    MIN_ROUTER_WIDTH,
    FlexiDepthPolicy,
    Router,
    flexidepth_modules,
    router_width,
    squared_layers,
)
from dyslctl.dysl.distillation import Stage2Loss, Stage2Settings, stage2_loss
from dyslctl.dysl.skip_modules import PRESETS, SkipModules, SkipSizes
from dyslctl.engine import FullSchedule, forward
from dyslctl.policy import full_policy
from dyslctl.types import LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

SIZES = SkipSizes(16, 4, 16)


@pytest.fixture
def backbone(tiny_backbone: type[TinyBackbone]) -> TinyBackbone:
    return tiny_backbone()


@pytest.fixture
def modules() -> SkipModules:
    """For 8 layers; its adapters change something."""
    torch.manual_seed(0)
    made = flexidepth_modules(8, SIZES)
    for layer in range(8):
        torch.nn.init.normal_(made.adapter(layer).up.weight, std=0.5)
    return made.eval()


@pytest.fixture
def observations() -> list[Observation]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    return [Observation({"agent": image}, "reach red", rng.random(2, np.float32)) for image in images]


def decide(modules: SkipModules, skipped: set[int]) -> None:
    """Routers that skip exactly the layers ``skipped``, whatever they read, with a probability of 1 or 0."""
    for layer in range(8):
        out = modules.controller(layer).get_submodule("out")
        torch.nn.init.zeros_(out.get_parameter("weight"))
        torch.nn.init.constant_(out.get_parameter("bias"), 200.0 if layer in skipped else -200.0)


def test_a_router_by_hand() -> None:
    """``LN`` of (1, -1) is itself, so is that of its tanh: logit = 2 * 1 + 0.5 * -1 + 0.25."""
    router = Router(2, 2)
    with torch.no_grad():
        router.down.weight.copy_(torch.eye(2))
        router.down.bias.zero_()
        router.out.weight.copy_(torch.tensor([[2.0, 0.5]]))
        router.out.bias.fill_(0.25)
    pooled = torch.tensor([[3.0, 1.0], [1.0, 3.0]])
    assert router(pooled).tolist() == pytest.approx([1.75, -1.25], abs=1e-3)


def test_a_bound_router_answers_alike() -> None:
    torch.manual_seed(1)
    router, pooled = Router(16, 16), torch.randn(5, 16)
    for parameter in router.parameters():
        torch.nn.init.normal_(parameter)
    assert torch.allclose(router.bind()(pooled), router(pooled), atol=1e-5)


def test_widths() -> None:
    assert router_width(4096) == 256
    assert router_width(64) == MIN_ROUTER_WIDTH
    assert PRESETS["flexi_rf3b"].dynamic_layers == len(flexidepth_modules(24, SIZES).partition.dynamic_layers)


def test_every_layer_has_a_router_and_lands_behind_itself() -> None:
    modules = flexidepth_modules(8, SIZES)
    assert modules.partition.static_layers == ()
    assert [modules.landing(layer) for layer in range(8)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert all(isinstance(modules.controller(layer), Router) for layer in range(8))


def test_the_price_by_hand() -> None:
    """Two samples and layers: kept 0.75 + 0.5 and 0 + 1, so (1.5625 + 1) / 2."""
    gates = {0: torch.tensor([0.25, 1.0]), 1: torch.tensor([0.5, 0.0])}
    assert squared_layers(gates, flexidepth_modules(2, SIZES).partition).item() == pytest.approx(1.28125)


def test_with_every_layer_kept_it_is_the_full_model_bit_for_bit(
    backbone: TinyBackbone, modules: SkipModules, observations: list[Observation]
) -> None:
    policy, full = FlexiDepthPolicy(backbone, modules, 1.0, 4), full_policy(backbone, 4)
    for observation in observations:
        assert np.array_equal(policy.select_action(observation).actions, full.select_action(observation).actions)
        assert policy.last.layers == tuple(range(8)) and policy.last.jumps == ()
        assert [each.layer for each in policy.last.consulted] == list(range(8))


def test_one_layer_runs_in_any_case(
    backbone: TinyBackbone, modules: SkipModules, observations: list[Observation]
) -> None:
    decide(modules, set(range(8)))
    policy = FlexiDepthPolicy(backbone, modules, 0.5, 4)
    policy.select_action(observations[0])
    assert policy.last.layers == (7,) and len(policy.last.jumps) == 7


def test_a_skipped_layer_is_not_executed_and_its_adapter_is(
    backbone: TinyBackbone, modules: SkipModules, observations: list[Observation], monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(modules, {1, 2, 6})
    executed: list[int] = []
    run = backbone.run_layer

    def counted(layer: int, state: LayerState) -> Tensor:
        executed.append(layer)
        return run(layer, state)

    monkeypatch.setattr(backbone, "run_layer", counted)
    policy = FlexiDepthPolicy(backbone, modules, 0.5, 4)
    chunk = policy.select_action(observations[0])
    assert executed == [0, 3, 4, 5, 7] == list(policy.last.layers)
    assert policy.last.jumps == ((1, 2), (2, 3), (6, 7))
    with torch.no_grad():
        state = LayerState.of(backbone.encode(observations[:1]))
        for layer in range(8):
            skips = layer in {1, 2, 6}
            state.hidden = modules.adapter(layer)(state.hidden) if skips else run(layer, state)
        (expected,) = backbone.decode_action(backbone.predict(state))
    assert np.allclose(chunk.actions, expected.actions, atol=1e-5)


def losses(
    backbone: TinyBackbone, modules: SkipModules, observations: list[Observation], *, hard: bool = False
) -> Stage2Loss:
    settings = Stage2Settings(penalty_weight=0.5, hard=hard)
    inputs, target = backbone.encode(observations), torch.zeros(len(observations), 4, 3)
    return stage2_loss(backbone, modules, inputs, target, range(8), settings, squared_layers)


def test_gates_that_keep_train_on_the_full_model_and_pay_for_all_layers(
    backbone: TinyBackbone, modules: SkipModules, observations: list[Observation]
) -> None:
    decide(modules, set())
    found = losses(backbone, modules, observations)
    state = LayerState.of(backbone.encode(observations))
    forward(backbone, state, FullSchedule())
    assert torch.equal(found.task, backbone.task_loss(backbone.predict(state), torch.zeros(6, 4, 3)).mean())
    assert found.penalty.item() == 64.0
    assert found.total.item() == pytest.approx(found.task.item() + 32.0)


@pytest.mark.parametrize("hard", [False, True])
def test_gradients_reach_every_router_and_adapter_and_nothing_else(
    backbone: TinyBackbone, modules: SkipModules, observations: list[Observation], hard: bool
) -> None:
    losses(backbone, modules, observations, hard=hard).total.backward()
    for layer in range(8):
        assert all(p.grad is not None and p.grad.any() for p in modules.controller(layer).parameters()), layer
        reached = modules.adapter(layer).up.weight.grad
        assert reached is not None and bool(reached.any()) != hard, "a hard gate that keeps hides its adapter"
    assert all(parameter.grad is None for parameter in backbone.parameters())
