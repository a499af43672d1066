from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dyslctl_openvla_oft import OpenVLAOFT
from dyslctl_openvla_oft.modeling import OFTModel
from torch import Tensor
from transformers import LlamaConfig, LlamaModel

from dyslctl.engine import RUN, FullSchedule, LayerSchedule, Run, forward
from dyslctl.types import LayerInputs, LayerState, Observation, TokenKind

Observe = Callable[..., Observation]


def run(backbone: OpenVLAOFT, inputs: LayerInputs, schedule: LayerSchedule | None = None) -> LayerState:
    state = LayerState.of(inputs)
    forward(backbone, state, schedule or FullSchedule())
    return state


def stock_llama(backbone: OpenVLAOFT) -> LlamaModel:
    """transformers' own model with the same weights; only its parameters are cast."""
    stock = LlamaModel(LlamaConfig(**backbone.checkpoint.config.text_config, attn_implementation="sdpa"))
    for parameter in stock.parameters():
        parameter.data = parameter.data.to(backbone.dtype)
    stock.load_state_dict(backbone.model.language_model.state_dict(), strict=True)
    return stock.eval().requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_schedule_is_stock_llama_bit_for_bit(folder: Path, observe: Observe, dtype: torch.dtype) -> None:
    backbone = OpenVLAOFT.load(folder, dtype=dtype)
    inputs = backbone.encode([observe()])
    assert inputs.mask is None
    tokens = inputs.hidden.shape[1]

    mask = torch.zeros(1, 1, tokens, tokens, dtype=dtype)
    upstream = stock_llama(backbone)(inputs_embeds=inputs.hidden, attention_mask=mask, use_cache=False)
    state = run(backbone, inputs)

    assert torch.equal(backbone.model.language_model.norm(state.hidden), upstream.last_hidden_state)
    first = 1 + 2 * 4 + 1 + len(backbone.checkpoint.tokenizer.encode(observe().instruction)) - 2
    upstream_actions = backbone.model.action_head(upstream.last_hidden_state[:, first : first + 21])
    assert torch.equal(backbone.predict(state), upstream_actions)


def test_padded_batch_equals_single_ones(backbone: OpenVLAOFT, observe: Observe) -> None:
    observations = [observe(), observe("stack the blue cube on the green block", 1), observe("lift it", 2)]
    batch = backbone.encode(observations)
    assert batch.mask is not None
    together = run(backbone, batch)
    for row, observation in enumerate(observations):
        alone = run(backbone, backbone.encode([observation]))
        real = batch.mask[row]
        assert int(real.sum()) == alone.hidden.shape[1]
        assert torch.equal(batch.kinds[row][real], alone.kinds[0])
        assert torch.equal(batch.positions[row][real], alone.positions[0])
        torch.testing.assert_close(together.hidden[row][real], alone.hidden[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(backbone.predict(together)[row], backbone.predict(alone)[0], atol=1e-5, rtol=1e-5)


def test_sequence_layout(backbone: OpenVLAOFT, observe: Observe) -> None:
    inputs = backbone.encode([observe("lift it")])
    prompt = backbone.checkpoint.tokenizer.encode("lift it")[1:]
    view, wrist = [int(TokenKind.VISION)] * 4, [int(TokenKind.VISION) + 1] * 4
    text = [int(TokenKind.TEXT)] * len(prompt)
    expected = [TokenKind.BOS, *view, *wrist, TokenKind.PROPRIO, *text, *[TokenKind.ACTION] * 21, TokenKind.STOP]
    assert inputs.kinds[0].tolist() == [int(kind) for kind in expected]
    assert inputs.positions[0].tolist() == list(range(len(expected)))

    embeddings = backbone.model.language_model.embed_tokens.weight
    assert torch.equal(inputs.hidden[0, 10 : 10 + len(prompt)], embeddings[prompt])
    assert torch.equal(inputs.hidden[0, -22:-1], torch.zeros(21, 32))
    assert torch.equal(inputs.hidden[0, -1], embeddings[backbone.checkpoint.tokenizer.stop_id])


def test_the_head_reads_one_token_early(backbone: OpenVLAOFT, observe: Observe) -> None:
    """From the lone space to the last placeholder but one; the last placeholder and the stop token are keys only."""
    state = run(backbone, backbone.encode([observe()]))
    before = backbone.predict(state)
    last_prompt = int((state.kinds[0] == TokenKind.TEXT).nonzero().max())
    tokens = state.hidden.shape[1]
    read = range(last_prompt, last_prompt + 21)
    assert tokens == last_prompt + 21 + 2
    changes = {index: not torch.equal(backbone.predict(_nudged(state, index)), before) for index in range(tokens)}
    assert changes == {index: index in read for index in range(tokens)}


def _nudged(state: LayerState, index: int) -> LayerState:
    nudged = state.fork()
    nudged.hidden = state.hidden.clone()
    nudged.hidden[:, index] += torch.linspace(-1, 1, state.hidden.shape[-1])
    return nudged


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_every_token_attends_to_later_ones(
    model: OFTModel, backbone: OpenVLAOFT, observe: Observe, implementation: str, padded: bool
) -> None:
    probe = OFTModel(model.config, "eager" if implementation == "eager" else "sdpa")
    probe.load_state_dict(model.state_dict())
    inputs = backbone.encode([observe("lift it"), observe()] if padded else [observe()])
    context = probe.context(inputs.hidden, inputs.positions, inputs.mask)
    changed = inputs.hidden.clone()
    stop = int((inputs.kinds[0] == TokenKind.STOP).nonzero()[0, 0])
    changed[0, stop] += 1
    with torch.no_grad():
        difference = probe.run_layer(0, changed, context) - probe.run_layer(0, inputs.hidden, context)
    assert bool((difference[0, : stop + 1].abs().amax(dim=-1) > 0).all())


def test_eager_equals_sdpa(model: OFTModel, backbone: OpenVLAOFT, observe: Observe) -> None:
    eager = OFTModel(model.config, "eager")
    eager.load_state_dict(model.state_dict())
    inputs = backbone.encode([observe("lift it"), observe()])
    outputs = []
    for candidate in (model, eager):
        hidden, context = inputs.hidden, candidate.context(inputs.hidden, inputs.positions, inputs.mask)
        with torch.no_grad():
            for layer in range(candidate.num_layers):
                hidden = candidate.run_layer(layer, hidden, context)
            outputs.append(candidate.predict(hidden, inputs.kinds))
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cast", [lambda m: m.to(torch.bfloat16), lambda m: m.bfloat16(), lambda m: m.half().float()])
def test_rotary_frequencies_stay_float32(model: OFTModel, cast: Callable[[OFTModel], OFTModel]) -> None:
    fresh = OFTModel(model.config)
    before = fresh.language_model.rotary_emb.inv_freq.clone()
    frequencies = cast(fresh).language_model.rotary_emb.inv_freq
    expected = 1 / 10_000 ** (torch.arange(0, 16, 2, dtype=torch.float32) / 16)
    assert frequencies.dtype == torch.float32
    assert torch.equal(frequencies, before)
    torch.testing.assert_close(frequencies, expected)


class _Keep(LayerSchedule):
    """Go on with the tokens ``keep`` from ``layer`` on."""

    def __init__(self, layer: int, keep: Tensor) -> None:
        self.layer, self.keep = layer, keep

    def before(self, layer: int, state: LayerState) -> Run:
        if layer == self.layer:
            state.select(self.keep)
        return RUN


class _HideKeys(LayerSchedule):
    """From ``layer`` on, no token attends to those outside ``keep``."""

    def __init__(self, layer: int, keep: Tensor) -> None:
        self.layer, self.keep = layer, keep

    def before(self, layer: int, state: LayerState) -> Run:
        if layer == self.layer:
            state.mask = torch.zeros_like(state.kinds, dtype=torch.bool).scatter(1, self.keep, True)
            state.context = None
        return RUN


def test_kept_tokens_keep_their_rotary_positions(backbone: OpenVLAOFT, observe: Observe) -> None:
    inputs = backbone.encode([observe()])
    tokens = inputs.hidden.shape[1]
    keep = torch.tensor([[index for index in range(tokens) if not 1 <= index <= 8 or index % 3 == 0]])
    gathered, masked = run(backbone, inputs, _Keep(2, keep)), run(backbone, inputs, _HideKeys(2, keep))
    assert gathered.hidden.shape[1] == keep.shape[1] < tokens
    torch.testing.assert_close(gathered.hidden, masked.hidden[:, keep[0]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(backbone.predict(gathered), backbone.predict(masked), atol=1e-5, rtol=1e-5)

    renumbered = LayerInputs(gathered.hidden, torch.arange(keep.shape[1])[None], gathered.kinds)
    shifted = backbone.run_layer(3, LayerState.of(renumbered))
    assert not torch.allclose(shifted, backbone.run_layer(3, LayerState.of(_as_inputs(gathered))), atol=1e-4)


def _as_inputs(state: LayerState) -> LayerInputs:
    return LayerInputs(state.hidden, state.positions, state.kinds, state.mask)


def test_forward_is_the_engine_path_and_trains(backbone: OpenVLAOFT, model: OFTModel, observe: Observe) -> None:
    trained = OFTModel(model.config)
    trained.load_state_dict(model.state_dict())
    ids, lengths = backbone.checkpoint.tokenizer.encode_batch(["lift it", "put the red cube in the purple bin"])
    pixel_values, proprio = torch.randn(2, 12, 28, 28), torch.randn(2, 5)

    output = trained(pixel_values, proprio, ids, lengths, taps=(1, 3))
    state = run(backbone, output.inputs)
    assert torch.equal(output.actions, backbone.predict(state))
    assert torch.equal(output.taps[3], state.hidden)
    assert sorted(output.taps) == [1, 3]

    torch.autograd.backward(output.actions.square().sum())
    assert [name for name, parameter in trained.named_parameters() if parameter.grad is None] == []
