from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.dysl.exits import (
    ExitAdapter,
    ExitModules,
    ExitPlanner,
    ExitSizes,
    default_exits,
    default_rank,
    relative_damage,
)
from dyslctl.dysl.partition import LayerPartition
from dyslctl.errors import ConfigError

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

TAIL = LayerPartition(6, (0, 1))
SIZES = ExitSizes(hidden_size=2, chunk_length=3, action_dim=1, adapter_rank=2, planner_width=5)
"""``P`` = 4."""


def test_damage_by_hand() -> None:
    """Two executed actions of pose and gripper: error (.1 + 0 + .3 + 0) / 4 = .1, motion (.2 + .4) / 2 = .3."""
    full = torch.tensor([[[0.2, 1.0], [-0.4, 1.0], [9.0, 1.0]]])
    predicted = torch.tensor([[[0.3, 1.0], [-0.7, 1.0], [0.0, 0.0]]])
    assert relative_damage(predicted, full, 2, 1).tolist() == pytest.approx([0.1 / 0.35])
    # Without a gripper every dimension moves: motion (.2 + 1 + .4 + 1) / 4 = .65.
    assert relative_damage(predicted, full, 2, None).tolist() == pytest.approx([0.1 / 0.7])


@given(st.floats(0, 1), st.floats(-1, 1), st.floats(1, 3))
def test_damage_grows_with_the_error(error: float, motion: float, factor: float) -> None:
    full = torch.full((1, 2, 3), motion)
    damages = [relative_damage(full + off, full, 2, 2).item() for off in (0.0, error, factor * error)]
    assert damages[0] == 0 and damages == sorted(damages)


@torch.no_grad()
def small_adapter() -> ExitAdapter:
    """``H`` = ``r`` = 2, three actions of one number; every weight by hand."""
    adapter = ExitAdapter(SIZES)
    adapter.norm.weight.copy_(torch.tensor([2.0, 1.0]))
    adapter.norm.bias.copy_(torch.tensor([0.0, 0.5]))
    adapter.down.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    adapter.down.bias.copy_(torch.tensor([0.5, 0.0]))
    # Rows 2 n and 2 n + 1 are V_n: the first inner unit of each action reads one number of the chunk.
    adapter.recall.weight.zero_()
    for action, weight in enumerate((10.0, 100.0, 1000.0)):
        adapter.recall.weight[2 * action, action] = weight
    adapter.up.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    adapter.up.bias.copy_(torch.tensor([0.0, 0.25]))
    adapter.scale.fill_(4.0)
    return adapter.requires_grad_(False)


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def test_the_adapters_formula_by_hand() -> None:
    """LN of (1, -1) is itself up to its epsilon, so W1 (g x + b) + b1 = (2.5, -.5); action 1 adds 100 * .02 to it."""
    adapter = small_adapter()
    x, memory = torch.tensor([[[1.0, -1.0], [1.0, -1.0]]]), torch.tensor([[0.3, 0.02, 0.0, 1.0]])
    adapted = adapter(x, memory, torch.tensor([[1, 2]]))
    second = -1 + 4 * (2 * silu(-0.5) + 0.25)
    expected = [[1 + 4 * silu(2.5 + 2.0), second], [1 + 4 * silu(2.5), second]]
    assert adapted[0].flatten().tolist() == pytest.approx(expected[0] + expected[1], abs=1e-4)


def test_a_token_reads_its_own_action_alone() -> None:
    adapter, x = small_adapter(), torch.tensor([[[1.0, -1.0]] * 3])
    slots = torch.tensor([[0, 1, 2]])
    empty = adapter(x, torch.zeros(1, 4), slots)
    for action in range(3):
        memory = torch.zeros(1, 4)
        memory[0, action] = 0.5
        changed = (adapter(x, memory, slots) != empty).any(-1)
        assert changed.tolist() == [[action == other for other in range(3)]]


def test_a_bound_adapter_is_the_same_function_of_the_weights_as_they_were() -> None:
    torch.manual_seed(0)
    adapter = ExitAdapter(ExitSizes(8, 4, 3, adapter_rank=5))
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    adapter.scale.fill_(0.7)
    x, memory, slots = torch.randn(2, 6, 8), torch.randn(2, 13), torch.randint(4, (2, 6))
    expected, bound = adapter(x, memory, slots).detach(), adapter.bind()
    torch.testing.assert_close(bound(x, memory, slots), expected)
    assert (bound(x, torch.zeros(2, 13), slots) - expected).abs().max() > 0.1, "the memory counts"
    for parameter in adapter.parameters():
        torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(bound(x, memory, slots), expected)


def test_an_untrained_adapter_is_the_plain_exit() -> None:
    x = torch.randn(1, 3, 2)
    assert torch.equal(ExitAdapter(SIZES)(x, torch.randn(1, 4), torch.tensor([[0, 1, 2]])), x)


def test_the_planner_formula_and_its_bound_form() -> None:
    torch.manual_seed(0)
    planner, features = ExitPlanner(SIZES, 3), torch.randn(4, 3 * 2 + 4)
    torch.nn.init.normal_(planner.norm.weight)
    torch.nn.init.normal_(planner.norm.bias)
    inner = planner.down(planner.norm(features))
    expected = (inner * inner.sigmoid()) @ planner.out.weight.T + planner.out.bias
    torch.testing.assert_close(planner(features), expected)
    bound = planner.bind()
    torch.testing.assert_close(bound(features), expected)
    torch.nn.init.zeros_(planner.out.weight)
    torch.testing.assert_close(bound(features), expected)


def test_default_sizes_and_exits() -> None:
    assert [default_rank(hidden) for hidden in (128, 1023, 1024, 4096)] == [128, 1023, 256, 1024]
    assert default_exits(LayerPartition(12, (0, 1, 2))) == (3, 4, 5, 6, 7, 8)
    assert default_exits(LayerPartition(12, tuple(range(10)))) == (10,)
    with pytest.raises(ConfigError, match="at least 1"):
        ExitSizes(16, 4, 3, adapter_rank=0)
    with pytest.raises(ConfigError, match="at least 1"):
        ExitSizes(16, 0, 3, adapter_rank=4)


def test_sizes_follow_the_backbone_unless_they_are_given(tiny_backbone: type[TinyBackbone]) -> None:
    spec = tiny_backbone(hidden_size=8, chunk_length=5).spec
    assert ExitSizes.of(spec) == ExitSizes(8, 5, 3, adapter_rank=8, planner_width=128, remembers=True)
    assert ExitSizes.of(spec, 2, 7, remembers=False) == ExitSizes(8, 5, 3, 2, 7, remembers=False)
    assert ExitSizes.of(spec).memory == 5 * 3 + 1


@pytest.mark.parametrize("exits", [(), (1, 2), (3, 2), (2, 2), (6,)])
def test_exits_must_be_layers_of_the_tail(exits: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"some of the layers \[2, 3, 4, 5\], ascending"):
        ExitModules(TAIL, exits, SIZES)


def test_a_head_that_generates_has_no_exits(tiny_backbone: type[TinyBackbone]) -> None:
    with pytest.raises(ConfigError, match="generates its actions token by token") as error:
        ExitSizes.of(replace(tiny_backbone().spec, generates=True))
    assert error.value.hint == "--method dysl-paper"


def test_parameters_by_hand() -> None:
    """``H`` = 8, ``r`` = 4, ``P`` = 3 * 2 + 1 = 7, ``N`` = 3.

    An adapter has 2 H r + r + H + 2 H + N r P, the planner 2 F + F w + w + w E + E with F = 3 H + P.
    """
    modules = ExitModules(TAIL, (2, 4), ExitSizes(8, 3, 2, adapter_rank=4, planner_width=5))
    adapter, planner = 2 * 8 * 4 + 4 + 8 + 16 + 3 * 4 * 7, 2 * 31 + 31 * 5 + 5 + 5 * 2 + 2
    assert sum(parameter.numel() for parameter in modules.parameters()) == 2 * adapter + planner
    assert modules.adapter(2).scale.item() == 1.0
