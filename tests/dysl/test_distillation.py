from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from dyslctl.dysl.distillation import (
    MixSchedule,
    Norm,
    Stage2Loss,
    Stage2Settings,
    calibrate_scales,
    compute_penalty,
    full_actions,
    predict_windows,
    sample_exits,
    stage1_loss,
    stage2_loss,
)
from dyslctl.dysl.partition import LayerPartition
from dyslctl.dysl.skip_modules import SkipModules
from dyslctl.dysl.states import residual_states
from dyslctl.engine import FullSchedule, Jump, LayerSchedule, Step, forward
from dyslctl.errors import ConfigError
from dyslctl.types import LayerInputs, LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

EXITS = (2, 5)


@pytest.fixture
def inputs(backbone: TinyBackbone, observations: list[Observation]) -> LayerInputs:
    return backbone.encode(observations[:6])


@pytest.fixture
def target() -> Tensor:
    return torch.rand(6, 4, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1


def close_controllers(modules: SkipModules, logit: float) -> None:
    with torch.no_grad():
        for layer in modules.partition.dynamic_layers:
            modules.controller(layer).out.weight.zero_()
            modules.controller(layer).out.bias.fill_(logit)


def mixed(backbone: TinyBackbone, inputs: LayerInputs, schedule: LayerSchedule) -> Tensor:
    state = LayerState.of(inputs)
    forward(backbone, state, schedule)
    return state.hidden


def test_one_pass_gives_the_nested_targets_of_equation_4(
    backbone: TinyBackbone, inputs: LayerInputs, modules: SkipModules
) -> None:
    """The literal formula: run layers i .. s-1 on h_i again for every i."""
    states, _ = residual_states(backbone, inputs)
    losses = stage1_loss(modules, states, inputs.mask, "fro")
    assert list(losses) == [1, 2, 4, 5, 6]
    for layer, loss in losses.items():
        state = LayerState.of(inputs)
        for i in range(layer):
            state.hidden = backbone.run_layer(i, state)
        estimate = modules.adapter(layer)(state.hidden)
        for i in range(layer, modules.partition.next_static(layer)):
            state.hidden = backbone.run_layer(i, state)
        assert inputs.mask is not None
        error = (estimate - state.hidden) * inputs.mask[..., None]
        torch.testing.assert_close(loss, error.flatten(1).norm(dim=1).mean())


@pytest.mark.parametrize(("norm", "expected"), [("fro", 5.0), ("fro_rms", 2.5), ("mse", 6.25), ("token_l2", 3.5)])
def test_norms_by_hand(modules: SkipModules, norm: Norm, expected: float) -> None:
    """Errors (3, 0) and (0, 4) on two tokens of width 2; the third token is padding."""
    partition = LayerPartition(2, (1,))
    error = torch.tensor([[[3.0, 0], [0, 4], [100, 100]]])
    mask = torch.tensor([[True, True, False]])
    identity = SkipModules(partition, modules.sizes)
    identity.adapters["0"] = torch.nn.Identity()
    losses = stage1_loss(identity, [error, torch.zeros_like(error), error], mask, norm)
    assert losses[0].item() == pytest.approx(expected)


def test_a_perfect_adapter_has_a_finite_gradient(modules: SkipModules) -> None:
    states = [torch.ones(1, 3, 16)] * 9
    with torch.no_grad():
        for layer in modules.partition.dynamic_layers:
            modules.adapter(layer).up.weight.zero_()
    torch.stack(list(stage1_loss(modules, states).values())).sum().backward()  # type: ignore[no-untyped-call]
    gradient = modules.adapter(1).up.weight.grad
    assert gradient is not None and bool(torch.isfinite(gradient).all())


def test_stage_1_learns(backbone: TinyBackbone, inputs: LayerInputs, modules: SkipModules) -> None:
    states, _ = residual_states(backbone, inputs)
    parameters, history = list(modules.adapters.parameters()), []
    for _ in range(40):
        loss = torch.stack(list(stage1_loss(modules, states, inputs.mask).values())).sum()
        with torch.no_grad():
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.sub_(0.1 * gradient)
        history.append(loss.item())
    assert history[-1] < 0.7 * history[0]


def test_scales_are_what_the_skipped_layers_add(
    backbone: TinyBackbone, inputs: LayerInputs, modules: SkipModules
) -> None:
    states, _ = residual_states(backbone, inputs)
    calibrate_scales(modules, [(states, inputs.mask)])
    assert inputs.mask is not None
    per_sample = [
        (states[7] - states[5])[row, inputs.mask[row]].square().mean() for row in range(inputs.hidden.shape[0])
    ]
    assert modules.adapter(5).scale.item() == pytest.approx(torch.stack(per_sample).mean().sqrt().item(), rel=1e-5)
    with pytest.raises(ConfigError, match="at least one batch"):
        calibrate_scales(modules, [])


def test_the_sampler_is_harmonic() -> None:
    partition, rng = LayerPartition(8, (0, 5, 7)), np.random.default_rng(0)
    draws = np.array([sample_exits(partition, rng) for _ in range(6000)])
    shares = [(draws[:, 0] == layer).mean() for layer in (1, 2, 3, 4)]
    assert shares == pytest.approx([0.48, 0.24, 0.16, 0.12], abs=0.02)
    assert set(draws[:, 1]) == {6}


def test_other_sampling_laws() -> None:
    partition, rng = LayerPartition(5, (0,)), np.random.default_rng(0)
    linear = np.array([sample_exits(partition, rng, "linear")[0] for _ in range(4000)])
    even = np.array([sample_exits(partition, rng, "uniform")[0] for _ in range(4000)])
    assert [(linear == i).mean() for i in (1, 2, 3, 4)] == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.03)
    assert [(even == i).mean() for i in (1, 2, 3, 4)] == pytest.approx([0.25] * 4, abs=0.03)


def test_closed_gates_are_the_full_model(backbone: TinyBackbone, inputs: LayerInputs, modules: SkipModules) -> None:
    close_controllers(modules, -1e4)
    hidden = mixed(backbone, inputs, MixSchedule(modules, EXITS))
    torch.testing.assert_close(hidden, mixed(backbone, inputs, FullSchedule()))


def test_open_gates_are_the_jump(backbone: TinyBackbone, inputs: LayerInputs, modules: SkipModules) -> None:
    class Skip(LayerSchedule):
        def before(self, layer: int, state: LayerState) -> Step:
            jumps = {2: Jump(3, modules.adapter(2)), 5: Jump(7, modules.adapter(5))}
            return jumps.get(layer, super().before(layer, state))

    close_controllers(modules, 1e4)
    hidden = mixed(backbone, inputs, MixSchedule(modules, EXITS))
    torch.testing.assert_close(hidden, mixed(backbone, inputs, Skip()))


def test_equation_5_by_hand(backbone: TinyBackbone, inputs: LayerInputs, modules: SkipModules) -> None:
    close_controllers(modules, 0.4)
    gate = torch.tensor(0.4).sigmoid()
    schedule = MixSchedule(modules, (5,))
    hidden = mixed(backbone, inputs, schedule)
    states, _ = residual_states(backbone, inputs)
    state = LayerState.of(inputs)
    state.hidden = gate * modules.adapter(5)(states[5]) + (1 - gate) * states[7]
    torch.testing.assert_close(hidden, backbone.run_layer(7, state))
    torch.testing.assert_close(schedule.gates[5], gate.expand(6))


def test_a_last_segment_mixes_before_the_head(
    backbone: TinyBackbone, inputs: LayerInputs, modules: SkipModules
) -> None:
    trailing = SkipModules(LayerPartition(8, (0, 3)), modules.sizes)
    close_controllers(trailing, 1e4)
    hidden = mixed(backbone, inputs, MixSchedule(trailing, (1, 4)))
    state = LayerState.of(inputs)
    for layer in (0, 3):
        state.hidden = backbone.run_layer(layer, state)
    torch.testing.assert_close(hidden, state.hidden)


def test_hard_decisions_pass_gradients_straight_through(
    backbone: TinyBackbone, inputs: LayerInputs, modules: SkipModules
) -> None:
    close_controllers(modules, -0.1)
    hidden = mixed(backbone, inputs, MixSchedule(modules, EXITS, hard=True))
    torch.testing.assert_close(hidden, mixed(backbone, inputs, FullSchedule()))
    hidden.square().sum().backward()  # type: ignore[no-untyped-call]
    gradient = modules.controller(5).out.bias.grad
    assert gradient is not None and float(gradient.abs()) > 0


def test_the_penalty_by_hand() -> None:
    """(3 - 2) * mean(.5, .25) + (7 - 4) * mean(.75, .25), from gates (.5, .75) and (.25, .75)."""
    gates = {2: torch.tensor([0.5, 0.75]), 4: torch.tensor([0.25, 0.75])}
    assert compute_penalty(gates, LayerPartition(8, (0, 3, 7))).item() == pytest.approx(0.375 + 1.5)


def stage2(
    backbone: TinyBackbone, modules: SkipModules, inputs: LayerInputs, target: Tensor, settings: Stage2Settings
) -> Stage2Loss:
    return stage2_loss(backbone, modules, inputs, target, EXITS, settings)


def test_gradients_reach_earlier_segments_and_spare_the_backbone(
    backbone: TinyBackbone, inputs: LayerInputs, modules: SkipModules, target: Tensor
) -> None:
    loss = stage2(backbone, modules, inputs, target, Stage2Settings(penalty_weight=0.0))
    loss.total.backward()  # type: ignore[no-untyped-call]
    for layer in EXITS:
        for parameter in (modules.adapter(layer).up.weight, modules.controller(layer).out.weight):
            assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0, layer
    assert modules.adapter(1).up.weight.grad is None, "not sampled in this step"
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_the_total_adds_the_weighted_terms(
    backbone: TinyBackbone, inputs: LayerInputs, modules: SkipModules, target: Tensor
) -> None:
    loss = stage2(backbone, modules, inputs, target, Stage2Settings(penalty_weight=0.1, kd_weight=0.5))
    torch.testing.assert_close(loss.total, loss.task + 0.5 * loss.kd + 0.1 * loss.penalty)
    torch.testing.assert_close(loss.penalty, compute_penalty(loss.gates, modules.partition))
    assert loss.kd.item() > 0


def test_closed_gates_have_the_full_models_loss(
    backbone: TinyBackbone, inputs: LayerInputs, modules: SkipModules, target: Tensor
) -> None:
    close_controllers(modules, -1e4)
    loss = stage2(backbone, modules, inputs, target, Stage2Settings(penalty_weight=0.1, kd_weight=1.0))
    expected = backbone.task_loss(full_actions(backbone, inputs), target).mean()
    torch.testing.assert_close(loss.task, expected)
    assert loss.kd.item() == pytest.approx(0, abs=1e-6)
    assert loss.penalty.item() == pytest.approx(1 + 2)


def test_a_head_with_memory_starts_each_batch_afresh(
    tiny_backbone: type[TinyBackbone], modules: SkipModules, inputs: LayerInputs
) -> None:
    backbone = tiny_backbone(memory=True)
    assert torch.equal(full_actions(backbone, inputs), full_actions(backbone, inputs))


@pytest.mark.parametrize("window", [2, 3, 6])
def test_in_a_window_the_head_remembers_as_a_policy_does(
    tiny_backbone: type[TinyBackbone], modules: SkipModules, inputs: LayerInputs, window: int
) -> None:
    """Sampled layers are left, hard: what is remembered is what came of that, inference by inference."""
    backbone = tiny_backbone(memory=True)
    schedule, state = MixSchedule(modules, EXITS, hard=True), LayerState.of(inputs)
    forward(backbone, state, schedule)
    found = predict_windows(backbone, state, window)
    for row, each in enumerate(inputs.samples()):
        if row % window == 0:
            backbone.reset()
        forward(backbone, each, MixSchedule(modules, EXITS, hard=True))
        torch.testing.assert_close(found[row : row + 1], backbone.predict(each))


def test_the_gradient_of_a_window_goes_back_to_its_first_inference_and_no_further(
    tiny_backbone: type[TinyBackbone], inputs: LayerInputs
) -> None:
    backbone = tiny_backbone(memory=True)
    state = LayerState.of(inputs)
    state.hidden = state.hidden.clone().requires_grad_()
    predicted = predict_windows(backbone, state, 3)
    (gradient,) = torch.autograd.grad(predicted[5].sum(), state.hidden)
    assert [bool(row.any()) for row in gradient] == [False] * 3 + [True] * 3


def test_stage_2_learns_from_windows(
    tiny_backbone: type[TinyBackbone], inputs: LayerInputs, modules: SkipModules, target: Tensor
) -> None:
    """Closed gates: the full model's loss over windows, which is not that of single inferences."""
    backbone = tiny_backbone(memory=True)
    close_controllers(modules, -1e4)
    losses = [
        stage2_loss(backbone, modules, inputs, target, EXITS, Stage2Settings(0.0, kd_weight=1.0, window=window))
        for window in (3, 1)
    ]
    expected = backbone.task_loss(full_actions(backbone, inputs, 3), target).mean()
    torch.testing.assert_close(losses[0].task, expected)
    assert losses[0].kd.item() == pytest.approx(0, abs=1e-6)
    assert losses[0].task.item() != pytest.approx(losses[1].task.item(), abs=1e-6)


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_recomputing_the_layers_gives_the_same_gradients_from_less_memory(
    backbone: TinyBackbone, inputs: LayerInputs, modules: SkipModules, target: Tensor, precision: torch.dtype | None
) -> None:
    """Bytes are those that the graph keeps between the two passes, each tensor counted once."""
    found = []
    for recompute in (False, True):
        kept: dict[int, int] = {}

        def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        modules.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            with torch.autocast("cpu", precision, enabled=precision is not None):
                loss = stage2_loss(backbone, modules, inputs, target, EXITS, Stage2Settings(0.1, recompute=recompute))
            held = sum(kept.values())
            loss.total.backward()
        gradients = {name: p.grad.clone() for name, p in modules.named_parameters() if p.grad is not None}
        found.append((loss.total.item(), gradients, held))
    (total, gradients, held), (same, again, less) = found
    assert same == total and again.keys() == gradients.keys()
    assert all(torch.equal(again[name], gradient) for name, gradient in gradients.items())
    assert any(gradient.any() for gradient in gradients.values())
    assert less < 0.7 * held
