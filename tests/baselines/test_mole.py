from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dyslctl.baselines.mole import (
    LayerRouter,
    MixtureSizes,
    MolePolicy,
    MoleSettings,
    balance,
    hidden_distance,
    layers_kept,
    mole_loss,
    pick,
    token_classes,
)
from dyslctl.engine import FullSchedule, forward
from dyslctl.policy import full_policy
from dyslctl.types import LayerState, Observation, TokenKind

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone


@pytest.fixture
def backbone(tiny_backbone: type[TinyBackbone]) -> TinyBackbone:
    return tiny_backbone()


@pytest.fixture
def router() -> LayerRouter:
    """For 8 layers; what it says depends on what it sees."""
    torch.manual_seed(0)
    made = LayerRouter(MixtureSizes(16, 8, 16))
    for part in (made.spatial[2], made.temporal):
        torch.nn.init.normal_(part.get_parameter("weight"))
    return made.eval()


@pytest.fixture
def observations() -> list[Observation]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    return [
        Observation({"agent": image}, "reach red" if n % 2 else "go and reach blue", rng.random(2, np.float32))
        for n, image in enumerate(images)
    ]


def always(router: LayerRouter, layers: set[int]) -> None:
    """Logits of 1 for ``layers`` and 0 for the others, whatever is seen and said."""
    with torch.no_grad():
        for parameter in [*router.spatial.parameters(), *router.temporal.parameters(), router.temper.weight]:
            parameter.zero_()
        router.temper.bias.fill_(200.0)
        router.temporal.bias.copy_(torch.tensor([float(layer in layers) for layer in range(8)]))


def test_picking_by_hand() -> None:
    soft, hard = pick(torch.tensor([[0.0, math.log(2), math.log(5)]]), 2)
    assert soft[0].tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    assert hard.tolist() == [[0.0, 1.0, 1.0]]
    assert balance(soft, hard).item() == pytest.approx(7 / 8 / 3)


def test_the_distance_by_hand() -> None:
    """Softmaxes (1/4, 3/4) and (1/2, 1/2); mean square ``(log 3)^2 / 2``; the other token is no member."""
    student, teacher = torch.tensor([[[0.0, math.log(3)], [9.0, 0.0]]]), torch.zeros(1, 2, 2)
    divergence = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    expected = 0.5 * divergence + 0.5 * math.log(3) ** 2 / 2
    members = torch.tensor([[True, False]])
    assert hidden_distance(student, teacher, members).item() == pytest.approx(expected, rel=1e-5)
    assert hidden_distance(teacher, teacher, members).item() == 0.0


@given(share=st.floats(0, 1), num_layers=st.integers(1, 40))
def test_how_many_layers_a_share_is(share: float, num_layers: int) -> None:
    kept = layers_kept(share, num_layers)
    assert 1 <= kept <= num_layers and abs(kept - max(share * num_layers, 1)) <= 0.5


def test_the_router_reads_each_kind_of_token_and_no_padding(router: LayerRouter) -> None:
    torch.manual_seed(1)
    kinds = torch.tensor([[TokenKind.BOS, TokenKind.VISION, TokenKind.VISION + 1, TokenKind.TEXT, TokenKind.TEXT, 0]])
    mask, positions = kinds != TokenKind.PAD, torch.arange(6)[None]
    hidden = torch.randn(1, 6, 16)
    logits = router.of(LayerState(hidden, positions, kinds, mask))
    for token, matters in enumerate([False, True, True, True, True, False]):
        other = hidden.clone()
        other[:, token] += torch.randn(16)
        assert torch.equal(router.of(LayerState(other, positions, kinds, mask)), logits) != matters, token
    short = LayerState(hidden[:, :5], positions[:, :5], kinds[:, :5])
    assert torch.allclose(router.of(short), logits, atol=1e-6), "padding changes nothing"


def test_where_there_is_no_text_all_tokens_are_read() -> None:
    kinds = torch.tensor([[TokenKind.ACTION, TokenKind.VISION, TokenKind.PAD]])
    vision, text = token_classes(LayerState(torch.zeros(1, 3, 2), torch.arange(3)[None], kinds, kinds != 0))
    assert vision.tolist() == [[False, True, False]] and text.tolist() == [[True, True, False]]


def test_all_layers_kept_is_the_full_model_bit_for_bit(
    backbone: TinyBackbone, router: LayerRouter, observations: list[Observation]
) -> None:
    policy, full = MolePolicy(backbone, router, 8, 4), full_policy(backbone, 4)
    for observation in observations:
        assert np.array_equal(policy.select_action(observation).actions, full.select_action(observation).actions)
        assert policy.last.layers == tuple(range(8)) and policy.last.jumps == ()


def test_layers_that_were_not_picked_are_not_executed(
    backbone: TinyBackbone, router: LayerRouter, observations: list[Observation], monkeypatch: pytest.MonkeyPatch
) -> None:
    always(router, {0, 3, 7})
    executed: list[int] = []
    run = backbone.run_layer

    def counted(layer: int, state: LayerState) -> Tensor:
        executed.append(layer)
        return run(layer, state)

    monkeypatch.setattr(backbone, "run_layer", counted)
    policy = MolePolicy(backbone, router, 3, 4)
    policy.select_action(observations[0])
    assert executed == [0, 3, 7] == list(policy.last.layers)
    (asked,) = policy.last.consulted
    assert asked.layer == 0 and asked.answer == pytest.approx(math.e / (3 * math.e + 5), rel=1e-5)


def test_different_observations_take_different_layers(
    backbone: TinyBackbone, router: LayerRouter, observations: list[Observation]
) -> None:
    policy, seen = MolePolicy(backbone, router, 4, 4), set()
    for observation in observations:
        policy.select_action(observation)
        assert policy.last.layers_run == 4
        seen.add(policy.last.layers)
    assert len(seen) > 1


def test_training_takes_the_way_that_inference_takes(
    backbone: TinyBackbone, router: LayerRouter, observations: list[Observation]
) -> None:
    inputs, target = backbone.encode(observations), torch.zeros(6, 4, 3)
    found = mole_loss(backbone, router, inputs, target, MoleSettings(8, 0.0, 1.0))
    state = LayerState.of(inputs)
    forward(backbone, state, FullSchedule())
    full = backbone.task_loss(backbone.predict(state), target).mean()
    assert found.task.item() == pytest.approx(full.item(), abs=1e-6) and found.distance.item() < 1e-6
    some = mole_loss(backbone, router, inputs, target, MoleSettings(4, 0.5, 2.0))
    assert some.distance.item() > 0
    parts = some.task + 0.5 * some.balance + 2.0 * some.distance
    assert some.total.item() == pytest.approx(parts.item())


@pytest.mark.parametrize("recompute", [False, True])
def test_the_gradient_reaches_the_router_and_nothing_else(
    backbone: TinyBackbone, router: LayerRouter, observations: list[Observation], recompute: bool
) -> None:
    settings = MoleSettings(4, 0.01, 0.5, recompute=recompute)
    mole_loss(backbone, router, backbone.encode(observations), torch.zeros(6, 4, 3), settings).total.backward()
    for name, parameter in router.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in backbone.parameters())
