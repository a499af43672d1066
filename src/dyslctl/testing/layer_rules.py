"""Rules about a backbone's numbers, its encoder and its decoder layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dyslctl.engine import EXIT, Jump
from dyslctl.errors import ConfigError
from dyslctl.testing.case import TOLERANCE, At, Case, Keep, check_shape, kept, relative_error
from dyslctl.testing.report import Findings
from dyslctl.types import KeysValues, LayerInputs, LayerState, TokenKind


def spec(case: Case) -> Findings:
    """Spec and workload describe one model."""
    spec, workload = case.backbone.spec, case.backbone.workload()
    for name in ("num_layers", "hidden_size", "chunk_length", "action_dim"):
        if getattr(spec, name) < 1:
            yield f"spec.{name} is {getattr(spec, name)}"
    if not 0 <= spec.last_live_layer < spec.num_layers:
        yield f"spec.last_live_layer is {spec.last_live_layer}, outside 0..{spec.num_layers - 1}"
    if spec.gripper_dim is not None and not 0 <= spec.gripper_dim < spec.action_dim:
        yield f"spec.gripper_dim is {spec.gripper_dim}, outside 0..{spec.action_dim - 1}"
    if (shown := len(case.observations[0].images)) < len(spec.views):
        yield f"spec.views names {len(spec.views)} views, an observation that is encoded has {shown}"
    if not spec.fingerprint:
        yield "spec.fingerprint is empty"
    if (workload.num_layers, workload.hidden_size) != (spec.num_layers, spec.hidden_size):
        yield f"workload() has {workload.num_layers} layers of {workload.hidden_size}, spec says otherwise"


def encoded(case: Case) -> Findings:
    """Encode returns hidden states, positions and kinds of one shape."""
    spec, inputs = case.backbone.spec, case.inputs()
    batch, tokens, hidden = inputs.hidden.shape
    if (batch, hidden) != (1, spec.hidden_size):
        yield f"hidden is {tuple(inputs.hidden.shape)} for one observation, expected (1, T, {spec.hidden_size})"
    if inputs.hidden.dtype != case.backbone.dtype or inputs.hidden.device != case.backbone.device:
        yield f"hidden is {inputs.hidden.dtype} on {inputs.hidden.device}, the backbone says otherwise"
    for name in ("positions", "kinds"):
        value = getattr(inputs, name)
        if value.dtype != torch.int64 or value.shape != (batch, tokens):
            yield f"{name} is {value.dtype} {tuple(value.shape)}, expected int64 {(batch, tokens)}"
    known = {int(kind) for kind in TokenKind} | {TokenKind.VISION + v for v in range(len(case.observations[0].images))}
    if unknown := set(inputs.kinds.flatten().tolist()) - known:
        yield f"kinds has {sorted(unknown)}, which no TokenKind and no view stands for"
    if bool((inputs.kinds >= TokenKind.VISION).any()) != case.backbone.spec.visual_tokens:
        yield f"kinds disagree with spec.visual_tokens = {case.backbone.spec.visual_tokens}"
    real = inputs.positions[0] if inputs.mask is None else inputs.positions[0][inputs.mask[0]]
    if not (real.diff() > 0).all() or (real < 0).any():
        yield f"positions of the real tokens do not ascend: {real.tolist()}"


def encode_pure(case: Case) -> Findings:
    """Encode is pure."""
    first, second = case.inputs(), case.inputs()
    for name in ("hidden", "positions", "kinds"):
        if not torch.equal(getattr(first, name), getattr(second, name)):
            yield f"{name} differs between two calls on one observation"
    kept = replace(first, hidden=first.hidden.clone(), positions=first.positions.clone(), kinds=first.kinds.clone())
    case.predict(case.run(LayerState.of(first)))
    for name in ("hidden", "positions", "kinds"):
        if not torch.equal(getattr(first, name), getattr(kept, name)):
            yield f"running the layers wrote into the encoded {name}"


def bad_observation(case: Case) -> Findings:
    """Encode refuses a bad observation with ConfigError."""
    good = case.observations[0]
    view, image = next(iter(good.images.items()))
    bad = {
        "an image of NaN": replace(good, images={**good.images, view: np.full(image.shape, np.nan, np.float32)}),
        "a grey image": replace(good, images={**good.images, view: image[..., 0]}),
        "no image": replace(good, images={}),
    }
    for what, observation in bad.items():
        try:
            case.backbone.encode([observation])
        except ConfigError:
            continue
        except Exception as error:
            yield f"{what} raises {type(error).__name__}, expected ConfigError"
        else:
            yield f"{what} is accepted"


def run_layer(case: Case) -> Findings:
    """Each layer takes [B,T,H] to [B,T,H] and writes nothing into its input."""
    state = LayerState.of(case.inputs())
    for layer in range(case.backbone.spec.num_layers):
        before = state.hidden.clone()
        output = case.backbone.run_layer(layer, state)
        if not torch.equal(state.hidden, before):
            yield f"run_layer({layer}) writes into its input"
        if (output.shape, output.dtype, output.device) != (before.shape, before.dtype, before.device):
            yield f"run_layer({layer}) returns {output.dtype} {tuple(output.shape)}, given {tuple(before.shape)}"
        state.hidden = output
    if not state.hidden.isfinite().all():
        yield "the last layer's output is not finite"


def resume(case: Case) -> Findings:
    """The layers are deterministic and resume bit for bit."""
    keep = Keep()
    whole = case.run(LayerState.of(case.inputs()), keep).hidden
    if not torch.equal(case.full().hidden, whole):
        yield "two full passes over one observation differ"
    for layer, state in enumerate(keep.before_layer):
        if not torch.equal(case.run(state, first=layer).hidden, whole):
            yield f"resuming at layer {layer} differs from the full pass"


def fork(case: Case) -> Findings:
    """Forks of one state are independent."""
    middle, keep = case.backbone.spec.num_layers // 2, Keep()
    whole = case.run(LayerState.of(case.inputs()), keep).hidden
    state = keep.before_layer[middle]
    other = state.fork()
    other.select(kept(other))
    case.run(other, first=middle)
    if not torch.equal(case.run(state, first=middle).hidden, whole):
        yield "a fork that went on with fewer tokens changed the state it was forked from"


def select(case: Case) -> Findings:
    """Tokens can be gathered between two layers."""
    inputs = case.inputs()
    everything, subset = LayerState.of(inputs), LayerState.of(inputs)
    everything.select(torch.arange(inputs.hidden.shape[1], device=inputs.hidden.device)[None])
    if not torch.equal(case.run(everything).hidden, case.full().hidden):
        yield "selecting every token, in order, changes the output"
    for gathered, what in ((inputs, ""), (case.backbone.encode(case.observations[:2]), " of two samples")):
        error, tokens = _gathering_error(case, gathered)
        if error > TOLERANCE[case.backbone.dtype]:
            yield f"keeping {tokens} tokens{what} differs from masking out the others (relative error {error:.1e})"
    if case.backbone.spec.visual_tokens:  # a head may need every other token
        subset.select(kept(subset))
        yield from check_shape(case, case.predict(case.run(subset)), batch=1)


def _gathering_error(case: Case, inputs: LayerInputs) -> tuple[float, int]:
    """Gathering against masking, where tokens are real; and how many were kept. What is padding stays padding."""
    subset, masked = LayerState.of(inputs), LayerState.of(inputs)
    keep = kept(subset)
    subset.select(keep)
    real = torch.ones_like(inputs.kinds, dtype=torch.bool) if inputs.mask is None else inputs.mask
    masked.mask = torch.zeros_like(real).scatter(1, keep, True) & real
    reference = case.run(masked).hidden.gather(1, keep[..., None].expand(-1, -1, inputs.hidden.shape[-1]))
    compared = real.gather(1, keep)
    return relative_error(case.run(subset).hidden[compared], reference[compared]), keep.shape[1]


def attention(case: Case) -> Findings:
    """Attention rows, if they are shown, are a softmax over the tokens that the layer sees."""
    state = LayerState.of(case.backbone.encode(case.observations[:2]))
    real, queries, before = _real(state), _last(_real(state)), state.hidden.clone()
    try:
        rows = case.backbone.attention_rows(0, state, queries)
    except ConfigError:
        return  # optional
    if rows.dtype != torch.float32 or (rows.shape[0], *rows.shape[2:]) != (*queries.shape, real.shape[1]):
        yield f"rows are {rows.dtype} {tuple(rows.shape)}, expected float32 [B, heads, Q, T] for {tuple(queries.shape)}"
        return
    if (rows < 0).any() or not torch.allclose(rows.sum(-1), torch.ones_like(rows[..., 0]), atol=1e-4):
        yield "weights of a row do not add up to one"
    if rows.masked_fill(real[:, None, None], 0).any():
        yield "padding is attended to"
    if not torch.equal(state.hidden, before):
        yield "looking at the attention writes into the hidden state"
    alone = LayerState.of(case.inputs())
    last = _last(_real(alone))
    hidden, beside = case.backbone.run_layer_with_rows(0, alone.fork(), last)
    apart = case.backbone.attention_rows(0, alone.fork(), last)
    if not torch.equal(hidden, case.backbone.run_layer(0, alone.fork())):
        yield "a layer that shows rows beside its output gives another output than run_layer"
    if not torch.allclose(beside, apart, atol=1e-4):
        yield "the rows that a layer shows beside its output are not those of attention_rows"
    if relative_error(rows[:1, ..., real[0]], apart[..., _real(alone)[0]]) > TOLERANCE[case.backbone.dtype]:
        yield "rows of a sample depend on the samples beside it in the batch"


def _real(state: LayerState) -> Tensor:
    """``[B, T]`` bool, the tokens that are no padding."""
    return torch.ones_like(state.kinds, dtype=torch.bool) if state.mask is None else state.mask


def _last(real: Tensor) -> Tensor:
    """``[B, 2]`` int64, the last two real tokens of each sample: whatever the mask, they see the most."""
    return (torch.arange(real.shape[1], device=real.device) * real).topk(2, 1).indices


def beside(case: Case) -> Findings:
    """A layer beside keys and values, if offered, is that layer with those tokens."""
    whole, few = LayerState.of(case.inputs()), LayerState.of(case.inputs())
    try:
        hidden, everything = case.backbone.run_layer_beside(0, whole.fork(), None)
    except ConfigError:
        return  # optional
    if not torch.equal(hidden, case.backbone.run_layer(0, whole)):
        yield "without others the output differs from run_layer's"
    keep = kept(few)
    few.select(keep)
    gone = ~torch.isin(everything.positions[0], few.positions[0])
    found, own = case.backbone.run_layer_beside(0, few, everything.where(gone))
    expected = hidden.gather(1, keep[..., None].expand(-1, -1, hidden.shape[-1]))
    error = relative_error(found, expected)
    if error > TOLERANCE[case.backbone.dtype]:
        yield f"tokens beside the keys and values of the others differ from all together (relative error {error:.1e})"
    if not torch.equal(own.positions, few.positions) or own.keys.shape[2] != keep.shape[1]:
        yield "the keys and values handed back are not those of the state's own tokens"
    yield from _made_apart(case, everything)


def _made_apart(case: Case, expected: KeysValues) -> Findings:
    """Keys and values made without running the layer, if offered, against those that it made."""
    state = LayerState.of(case.inputs())
    before = state.hidden.clone()
    try:
        found = case.backbone.keys_values(0, state)
    except ConfigError:
        return  # optional
    pairs = ((found.keys, expected.keys), (found.values, expected.values))
    error = max(relative_error(*pair) if pair[0].shape == pair[1].shape else np.inf for pair in pairs)
    if error > TOLERANCE[case.backbone.dtype] or not torch.equal(found.positions, expected.positions):
        yield f"keys_values differs from what run_layer_beside hands back (relative error {error:.1e})"
    if not torch.equal(state.hidden, before):
        yield "keys_values writes into the hidden state"


def last_live(case: Case) -> Findings:
    """The head reads last_live_layer's output, and no later layer's."""
    last, expected = case.backbone.spec.last_live_layer, case.predict(case.full())
    if last + 1 < case.backbone.spec.num_layers:
        early = case.predict(case.run(LayerState.of(case.inputs()), At(last + 1, EXIT)))
        if not torch.equal(early, expected):
            yield f"leaving after layer {last} changes the prediction, so a later layer lives"
    without = case.predict(case.run(LayerState.of(case.inputs()), At(last, Jump(last + 1))))
    if torch.equal(without, expected):
        yield f"leaving out layer {last} does not change the prediction, so it is not live"
