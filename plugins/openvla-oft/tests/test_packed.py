"""OpenVLA-OFT on packed layers, against the stock ``transformers`` layers of the eager backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dyslctl_openvla_oft import OpenVLA, OpenVLAOFT

from dyslctl.engine import FullSchedule, Jump, LayerSchedule, Run, Step, forward
from dyslctl.errors import ConfigError
from dyslctl.plugins import load_suite
from dyslctl.runtime import linear
from dyslctl.runtime.packed import PackedBackbone, with_backend
from dyslctl.types import LayerState, Observation, TokenKind

Observe = Callable[..., Observation]


class Jumps(LayerSchedule):
    """Leaves out layer 1, and goes on with every other patch."""

    def before(self, layer: int, state: LayerState) -> Step:
        if layer != 1:
            return Run()
        patches = torch.nonzero(state.kinds[0] >= TokenKind.VISION).flatten()[1::2].tolist()
        keep = [token for token in range(state.kinds.shape[1]) if token not in patches]
        return Jump(2, keep=torch.tensor(keep)[None].expand(len(state.kinds), -1))


def run(
    backbone: OpenVLAOFT | PackedBackbone, seen: list[Observation], schedule: LayerSchedule | None = None
) -> tuple[LayerState, list[int]]:
    state = LayerState.of(backbone.encode(seen))
    return state, forward(backbone, state, schedule or FullSchedule()).layers_run


@pytest.mark.parametrize("schedule", [FullSchedule(), Jumps()])
@pytest.mark.parametrize("padded", [False, True])
def test_the_same_plan_and_the_same_action(
    backbone: OpenVLAOFT, folder: Path, observe: Observe, schedule: LayerSchedule, padded: bool
) -> None:
    packed = with_backend(OpenVLAOFT.load(folder), "packed")
    seen = [observe(), observe("lift it", 1)] if padded else [observe()]
    (expected, way), (found, other) = run(backbone, seen, schedule), run(packed, seen, schedule)
    assert way == other and (expected.mask is not None) == padded
    torch.testing.assert_close(packed.predict(found), backbone.predict(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_plain_products_are_the_upstream_bits(padded: bool) -> None:
    """All else - rotary embedding, attention, norms, fused matrices - is the arithmetic of ``transformers``.

    On the embedded checkpoint: at an MLP width that is no multiple of 32 the last elements of each row go through
    another kernel of silu.
    """
    suite = load_suite("tabletop_object")
    first = suite.make().reset(suite.episodes("tune", 1)[0])
    seen = [first, replace(first, instruction="lift it")] if padded else [first]
    states = []
    for pack in (None, linear.plain):
        loaded = OpenVLAOFT.load(OpenVLAOFT.default_checkpoint())
        states.append(run(loaded if pack is None else PackedBackbone(loaded, pack), seen)[0])
    assert (states[0].mask is not None) == padded
    assert torch.equal(states[0].hidden, states[1].hidden)


def test_bfloat16_is_no_worse_than_the_eager_one(backbone: OpenVLAOFT, folder: Path, observe: Observe) -> None:
    """Judged against float32; the two round in different places."""
    exact = run(backbone, [observe()])[0].hidden
    eager, packed = (with_backend(OpenVLAOFT.load(folder, dtype=torch.bfloat16), name) for name in ("eager", "packed"))
    errors = [float((run(one, [observe()])[0].hidden - exact).norm() / exact.norm()) for one in (eager, packed)]
    assert 0 < errors[1] < 1.2 * errors[0] < 0.1


def test_int8_changes_the_action_a_little(backbone: OpenVLAOFT, folder: Path, observe: Observe) -> None:
    packed = with_backend(OpenVLAOFT.load(folder), "packed-int8")
    expected, found = run(backbone, [observe()])[0].hidden, run(packed, [observe()])[0].hidden
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.1


def test_memory_holds_the_layers_once(folder: Path) -> None:
    backbone = OpenVLAOFT.load(folder)
    size = backbone.workload()
    packed = with_backend(backbone, "packed")
    assert {parameter.device.type for parameter in backbone.model.language_model.layers.parameters()} == {"meta"}
    assert packed.workload() == size
    assert (packed.spec, packed.device.type, packed.dtype) == (backbone.spec, "cpu", torch.float32)


def test_layers_that_are_kept_run_beside_the_packed_ones(folder: Path, observe: Observe) -> None:
    backbone = OpenVLAOFT.load(folder)
    expected = run(backbone, [observe()])[0].hidden
    packed = with_backend(backbone, "packed", keep=True)
    assert torch.equal(run(backbone, [observe()])[0].hidden, expected)
    torch.testing.assert_close(run(packed, [observe()])[0].hidden, expected, rtol=1e-4, atol=1e-4)


def test_a_layer_that_is_not_llamas_is_refused(folder: Path) -> None:
    backbone = OpenVLAOFT.load(folder)
    backbone.model.language_model.config.attention_bias = True
    with pytest.raises(ConfigError, match="neither biases nor another activation"):
        with_backend(backbone, "packed")


def test_the_autoregressive_model_is_refused(tmp_path: Path) -> None:
    from dyslctl_openvla_oft.random_checkpoint import published_config, write_random_checkpoint

    write_random_checkpoint(tmp_path / "ar", published_config("tiny", "tokens"))
    with pytest.raises(ConfigError, match="takes tokens through its layers"):
        with_backend(OpenVLA.load(tmp_path / "ar"), "packed")


def test_the_stock_model_is_that_of_transformers(backbone: OpenVLAOFT, observe: Observe) -> None:
    """Causal, unlike ours: its first token sees itself alone, and is what our layers make of it alone."""
    inputs = backbone.encode([observe()])
    with torch.no_grad():
        found = backbone.stock_layers()(inputs)
    first = LayerState(inputs.hidden[:, :1], inputs.positions[:, :1], inputs.kinds[:, :1])
    forward(backbone, first, FullSchedule())
    assert found.shape == inputs.hidden.shape
    torch.testing.assert_close(found[:, :1], backbone.model.language_model.norm(first.hidden), rtol=1e-4, atol=1e-5)
