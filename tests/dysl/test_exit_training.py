from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from dyslctl.dysl.exit_schedule import ExitLadder, FixedExit
from dyslctl.dysl.exit_training import ExitViews, exit_actions, exit_losses, exit_views, measure_scales
from dyslctl.dysl.exits import ExitModules
from dyslctl.dysl.query_layout import query_tokens
from dyslctl.dysl.states import residual_states
from dyslctl.engine import forward
from dyslctl.types import LayerInputs, LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone


@pytest.fixture
def inputs(backbone: TinyBackbone, observations: list[Observation]) -> LayerInputs:
    """Four samples without padding."""
    return backbone.encode(observations[::2][:4])


@pytest.fixture
def memory() -> Tensor:
    """Of four samples, each its own; chunks of 4 actions with 3 dimensions."""
    return torch.linspace(-1, 1, 4 * 13).view(4, 13)


def test_views_are_the_query_tokens_before_each_exit(
    backbone: TinyBackbone, exits: ExitModules, inputs: LayerInputs, memory: Tensor
) -> None:
    views = exit_views(backbone, inputs, memory, exits.exits)
    states, last = residual_states(backbone, inputs)
    keep = query_tokens(last)
    assert views.hidden.shape == (4, 3, keep.shape[1], 16) and len(views) == 4
    for index, layer in enumerate(exits.exits):
        assert torch.equal(views.at(index).hidden, states[layer][:, keep[0]])
        assert torch.equal(views.at(index).kinds, last.kinds[:, keep[0]])
    assert not views.hidden.requires_grad and torch.equal(views.memory, memory)
    some = views.rows(torch.tensor([3, 1]))
    assert torch.equal(some.hidden, views.hidden[[3, 1]]) and torch.equal(some.positions, views.positions[[3, 1]])
    assert torch.equal(some.memory, memory[[3, 1]])


def test_parts_join_to_the_whole(
    backbone: TinyBackbone, exits: ExitModules, inputs: LayerInputs, memory: Tensor
) -> None:
    views = exit_views(backbone, inputs, memory, exits.exits)
    parts = [views.rows(torch.tensor(rows)) for rows in ([0], [1, 2], [3])]
    joined = ExitViews.join(parts)
    for column in ("hidden", "positions", "kinds", "memory"):
        assert torch.equal(getattr(joined, column), getattr(views, column))


def test_training_sees_what_the_policy_acts_on(
    backbone: TinyBackbone, exits: ExitModules, inputs: LayerInputs, memory: Tensor
) -> None:
    """The actions of the stored views are those of a pass that leaves there, with the same memory."""
    predicted = exit_actions(backbone, exits, exit_views(backbone, inputs, memory, exits.exits))
    for index, layer in enumerate(exits.exits):
        leave, state = FixedExit(ExitLadder(exits), layer), LayerState.of(inputs)
        leave.memory = memory
        forward(backbone, state, leave)
        torch.testing.assert_close(predicted[index], backbone.predict(state), atol=1e-5, rtol=1e-5)
    nothing = exit_views(backbone, inputs, torch.zeros_like(memory), exits.exits)
    assert (exit_actions(backbone, exits, nothing) - predicted).abs().max() > 0.01, "the memory counts"


def test_the_pass_ends_at_the_last_exit(
    backbone: TinyBackbone, inputs: LayerInputs, memory: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    run_layer = backbone.run_layer
    monkeypatch.setattr(backbone, "run_layer", lambda layer, state: ran.append(layer) or run_layer(layer, state))
    exit_views(backbone, inputs, memory, (2, 3))
    assert ran == [0, 1, 2]


def test_every_exit_acts_and_learns_alone(
    backbone: TinyBackbone, exits: ExitModules, inputs: LayerInputs, memory: Tensor
) -> None:
    views = exit_views(backbone, inputs, memory, exits.exits)
    exits.requires_grad_(True)
    predicted = exit_actions(backbone, exits, views)
    assert predicted.shape == (3, 4, 4, 3)
    predicted[1].sum().backward()  # type: ignore[no-untyped-call]
    for part in ("up", "recall"):
        grads = {layer: exits.adapter(layer).get_submodule(part).weight.grad for layer in exits.exits}
        learnt = {layer: isinstance(grad, Tensor) and bool(grad.any()) for layer, grad in grads.items()}
        assert learnt == {2: False, 3: True, 5: False}, part


def test_losses_by_hand() -> None:
    """One executed action of two: (1 * 0.5 + 0.3 * 1) / 2 and twice that."""
    full = torch.zeros(2, 2, 1)
    predicted = torch.tensor([[[0.5], [1.0]], [[-0.5], [-1.0]]])[None] * torch.tensor([1.0, 2.0])[:, None, None, None]
    assert exit_losses(predicted, full, executed=1).tolist() == pytest.approx([0.4, 0.8])


def test_scales_are_what_the_skipped_layers_add(
    backbone: TinyBackbone, exits: ExitModules, inputs: LayerInputs
) -> None:
    measure_scales(backbone, exits, inputs)
    states, last = residual_states(backbone, inputs)
    rows = query_tokens(last)[0]
    for layer in exits.exits:
        added = (states[8] - states[layer])[:, rows]
        assert exits.adapter(layer).scale.item() == pytest.approx(added.square().mean().sqrt().item(), rel=1e-5)
