"""A packed backbone is the backbone: the same plan, the same actions, within what another order of sums may change."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest
import torch

from dyslctl.backbone import Backbone, PackLinear
from dyslctl.cli.config import ModelConfig
from dyslctl.engine import FullSchedule, Jump, LayerSchedule, Run, Step, forward, forward_together
from dyslctl.errors import ConfigError
from dyslctl.policy import full_policy
from dyslctl.runtime import linear
from dyslctl.runtime.packed import BACKENDS, PackedBackbone, with_backend
from dyslctl.testing import head_rules
from dyslctl.testing.backbone import CHECKS
from dyslctl.testing.case import Case
from dyslctl.testing.report import CheckReport
from dyslctl.types import LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone


def observation(instruction: str = "reach red", seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Observation({"agent": image}, instruction, rng.uniform(-1, 1, 2).astype(np.float32))


class Jumps(LayerSchedule):
    """Skips from 2 to 5, on fewer tokens."""

    def before(self, layer: int, state: LayerState) -> Step:
        keep = torch.tensor([[0, 2, 4, 5, 6, 7, 10, 11, 12, 13, 14]])
        return Jump(5, lambda hidden: 0.5 * hidden, keep) if layer == 2 else Run()


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("schedule", [FullSchedule(), Jumps()])
def test_it_goes_the_same_way_to_the_same_action(
    tiny_backbone: type[TinyBackbone], backend: str, schedule: LayerSchedule
) -> None:
    eager = tiny_backbone()
    packed = with_backend(tiny_backbone(), backend)
    states = [LayerState.of(one.encode([observation()])) for one in (eager, packed)]
    traces = [forward(one, state, schedule) for one, state in zip((eager, packed), states, strict=True)]
    assert traces[0].layers_run == traces[1].layers_run and traces[0].tokens == traces[1].tokens
    error = float((packed.predict(states[1]) - eager.predict(states[0])).abs().max())
    assert error < (1e-5 if backend == "packed" else 0.05)
    assert backend == "packed" or error > 0  # int8 is not the same


def test_plain_products_are_the_upstream_bits(tiny_backbone: type[TinyBackbone]) -> None:
    """Where the kernels are the same, so is the result: packing changes nothing but the products."""
    states = []
    for backbone in (tiny_backbone(), PackedBackbone(tiny_backbone(), linear.plain)):
        states.append(LayerState.of(backbone.encode([observation()])))
        forward(backbone, states[-1], FullSchedule())
    assert torch.equal(states[0].hidden, states[1].hidden)


def test_every_rule_but_the_gradients(tiny_backbone: type[TinyBackbone]) -> None:
    packed = with_backend(tiny_backbone(), "packed")
    rules = [check for check in CHECKS if check.rule is not head_rules.gradient]
    case = Case(packed, (observation("reach red right now"), observation("reach blue", 1)))
    with torch.no_grad():
        report = CheckReport.of("packed", case, rules)
    assert len(rules) == len(CHECKS) - 1 and not report.failures, str(report)


def test_side_by_side_too(tiny_backbone: type[TinyBackbone]) -> None:
    packed = with_backend(tiny_backbone(), "packed")
    inputs = [packed.encode([observation(seed=seed)]) for seed in (0, 1)]
    alone = [LayerState.of(one) for one in inputs]
    for state in alone:
        forward(packed, state, FullSchedule())
    together = [LayerState.of(one) for one in inputs]
    forward_together(packed, together, [FullSchedule(), FullSchedule()], [0, 0])
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one.hidden, other.hidden, rtol=1e-5, atol=1e-5)


def test_a_head_keeps_its_memory(tiny_backbone: type[TinyBackbone]) -> None:
    packed, eager = with_backend(tiny_backbone(memory=True), "packed"), tiny_backbone(memory=True)
    policies = [full_policy(one, 2) for one in (packed, eager)]
    for policy in policies:
        policy.reset()
    first = packed.snapshot()
    for seed in range(3):
        chunks = [policy.select_action(observation(seed=seed)) for policy in policies]
        np.testing.assert_allclose(chunks[0].actions, chunks[1].actions, atol=1e-5)
    packed.restore(first)
    policies[1].reset()
    again = [policy.select_action(observation(seed=7)) for policy in policies]
    np.testing.assert_allclose(again[0].actions, again[1].actions, atol=1e-5)
    assert policies[0].last.layers == tuple(range(8))


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_what_stands_between_the_layers_is_packed_in_its_own_dtype(
    tiny_backbone: type[TinyBackbone], backend: str
) -> None:
    """Not quantised: an adapter is trained for what it says."""
    weight, bias, x = torch.randn(6, 16), torch.randn(6), torch.randn(1, 3, 16)
    expected = torch.nn.functional.linear(x, weight, bias)
    assert torch.equal(tiny_backbone().pack(weight, bias)(x), expected)
    torch.testing.assert_close(with_backend(tiny_backbone(), backend).pack(weight, bias)(x), expected)


def test_its_sizes_are_the_backbones(tiny_backbone: type[TinyBackbone]) -> None:
    """What a prediction is for: the published one and its own."""
    packed, eager = with_backend(tiny_backbone(), "packed"), tiny_backbone()
    assert packed.workloads() == eager.workloads() != {}
    assert packed.workload() == eager.workload()


def test_eager_is_the_backbone_itself(tiny_backbone: type[TinyBackbone]) -> None:
    backbone = tiny_backbone()
    assert with_backend(backbone, "eager") is backbone


def test_a_gradient_is_refused_rather_than_lost(tiny_backbone: type[TinyBackbone]) -> None:
    packed = with_backend(tiny_backbone(), "packed")
    state = LayerState.of(packed.encode([observation()]))
    state.hidden = state.hidden.detach().requires_grad_()
    with pytest.raises(ConfigError, match="packed layers have no gradient"):
        packed.run_layer(0, state)


def refused(backbone: Backbone, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        with_backend(backbone, "packed")
    assert caught.value.hint == "--set model.backend=eager"


def test_what_cannot_be_packed_is_refused(tiny_backbone: type[TinyBackbone], monkeypatch: pytest.MonkeyPatch) -> None:
    generating = tiny_backbone()
    generating.spec = replace(generating.spec, generates=True)
    refused(generating, "takes tokens through its layers")

    class Bare(tiny_backbone):  # type: ignore[misc, valid-type]
        def packed_layers(self, pack: PackLinear, *, keep: bool) -> object:
            return Backbone.packed_layers(self, pack, keep=keep)

    refused(Bare(), r"Bare offers no packed layers: expected Backbone\.packed_layers")
    monkeypatch.setattr(tiny_backbone, "device", torch.device("meta"))
    refused(tiny_backbone(), "expected a backbone on the CPU to pack, found one on meta")
    with pytest.raises(
        ConfigError, match="no backend named 'graphs': expected one of eager, packed, packed-int8"
    ) as caught:
        with_backend(tiny_backbone(), "graphs")
    assert caught.value.hint is not None and "backend='eager'" in caught.value.hint


def test_the_configuration_names_the_same_backends() -> None:
    assert get_args(ModelConfig.model_fields["backend"].annotation) == BACKENDS
