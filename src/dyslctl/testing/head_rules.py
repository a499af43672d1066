"""Rules about a backbone's head: prediction, gradient, memory, decoding, loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dyslctl.testing.case import TOLERANCE, Case, check_shape, pose_dims, ramp, relative_error
from dyslctl.testing.report import Findings
from dyslctl.types import LayerState, TokenKind

PASTS = (0, 1, 20)
"""Predictions made before a snapshot, ascending: a head with a window behaves otherwise once it is full."""


def predict(case: Case) -> Findings:
    """The prediction is [B,N,A], finite, and leaves the hidden state alone."""
    state = case.full()
    before = state.hidden.clone()
    yield from check_shape(case, case.predict(state), batch=1)
    if not torch.equal(state.hidden, before):
        yield "predict writes into the hidden state"


def reads(case: Case) -> Findings:
    """The head reads proprio, text and action tokens only: an exit hands it no others."""
    alone, everything = case.full(), case.predict(case.full())
    queries = (alone.kinds[0] >= TokenKind.PROPRIO) & (alone.kinds[0] <= TokenKind.ACTION)
    alone.select(queries.nonzero()[None, :, 0])
    error = relative_error(case.predict(alone), everything)
    if error > TOLERANCE[case.backbone.dtype]:
        yield f"without the other tokens the prediction differs (relative error {error:.1e})"


def batch(case: Case) -> Findings:
    """A batch of two equals two singles."""
    pair = case.observations[:2]
    both = case.predict(case.run(LayerState.of(case.backbone.encode(pair))))
    yield from check_shape(case, both, batch=2)
    for index, observation in enumerate(pair):
        single = case.predict(case.run(LayerState.of(case.backbone.encode([observation]))))
        error = relative_error(both[index : index + 1], single)
        if error > TOLERANCE[case.backbone.dtype]:
            yield f"observation {index} in a batch of two differs from it alone (relative error {error:.1e})"


def gradient(case: Case) -> Findings:
    """Gradients reach the first layer, and no parameter."""
    with torch.enable_grad():
        inputs = case.inputs()
        if case.predict(case.run(LayerState.of(inputs))).requires_grad:
            yield "the prediction requires a gradient though nothing asked for one: parameters are not frozen"
        hidden = inputs.hidden.detach().clone().requires_grad_()
        predicted = case.predict(case.run(LayerState.of(replace(inputs, hidden=hidden))))
        (gradient,) = torch.autograd.grad(predicted.float().square().sum(), hidden)
    if not gradient.isfinite().all() or not gradient.any():
        yield "the gradient at the hidden state before layer 0 is zero or not finite"


def memory(case: Case) -> Findings:
    """Snapshot, restore and reset rewind the head."""
    backbone = case.backbone
    seen = [case.run(LayerState.of(backbone.encode([observation]))) for observation in case.observations]

    def prediction(step: int) -> Tensor:
        return backbone.predict(seen[step % len(seen)])

    backbone.reset()
    if (backbone.snapshot() is None) != (backbone.spec.window == 1):
        yield f"spec.window is {backbone.spec.window} and snapshot() {backbone.snapshot()}: 1 and None go together"
    expected = [prediction(step) for step in range(PASTS[-1] + 2)]
    for past in PASTS:
        backbone.reset()
        replayed = [prediction(step) for step in range(past)]
        if not all(map(torch.equal, replayed, expected)):
            yield f"the first {past} predictions after reset differ from those before"
        kept = backbone.snapshot()
        for attempt in ("first", "second"):
            if not torch.equal(prediction(past), expected[past]):
                yield f"prediction {past} differs at the {attempt} try from one snapshot"
            backbone.restore(kept)
        yield from _history(case, seen[past % len(seen)], expected[past], past)
        if not all(torch.equal(prediction(step), expected[step]) for step in (past, past + 1)):
            yield f"predict, restore, predict leaves other memory than one predict, after {past} predictions"


def _history(case: Case, state: LayerState, expected: Tensor, past: int) -> Findings:
    """A history, if offered, stands for the head's own memory."""
    history = case.backbone.history()
    if history is None:
        return  # optional
    if history.dtype != torch.float32 or history.ndim != 1 or bool(history.any()) != bool(past):
        yield f"history after {past} predictions: expected [Q] float32, zeros if there were none"
    beside = state.fork()
    beside.history = history[None].to(case.backbone.device)
    error = relative_error(case.backbone.predict(beside), expected)
    if error > TOLERANCE[case.backbone.dtype]:
        yield f"with its history prediction {past} differs (relative error {error:.1e})"


def decode(case: Case) -> Findings:
    """Decoding is pure and undoes normalize."""
    spec, predicted = case.backbone.spec, ramp(case)
    before = predicted.clone()
    chunks, again = case.backbone.decode_action(predicted), case.backbone.decode_action(predicted)
    if len(chunks) != 1:
        yield f"decode_action returns {len(chunks)} chunks for one observation"
    chunk = chunks[0]
    for name in ("actions", "normalized"):
        value = getattr(chunk, name)
        if value.dtype != np.float32 or value.shape != (spec.chunk_length, spec.action_dim):
            yield f"{name} is {value.dtype} {value.shape}, expected float32 {(spec.chunk_length, spec.action_dim)}"
        if not np.array_equal(value, getattr(again[0], name)):
            yield f"{name} differs between two calls"
    if not torch.equal(predicted, before):
        yield "decode_action writes into the prediction"
    if spec.gripper_dim is not None and not np.isin(chunk.normalized[:, spec.gripper_dim], (-1, 1)).all():
        yield f"the gripper of normalized is not -1 or 1: {chunk.normalized[:, spec.gripper_dim].tolist()}"
    target = torch.from_numpy(case.backbone.normalize(chunk.actions))[None].to(case.backbone.device)
    error = np.abs(case.backbone.decode_action(target)[0].actions - chunk.actions).max()
    if error > 1e-3:
        yield f"decode_action(normalize(actions)) is not actions: largest difference {error:.1e}"


def task_loss(case: Case) -> Findings:
    """The task loss is one value a sample, smallest at the target."""
    target = torch.as_tensor(case.backbone.normalize(case.backbone.decode_action(ramp(case))[0].actions))
    target = target[None].to(device=case.backbone.device, dtype=case.backbone.dtype)
    away = target.clone()
    away[..., pose_dims(case)] += 0.25
    at, off = case.backbone.task_loss(target, target), case.backbone.task_loss(away, target)
    if at.shape != (1,):
        yield f"task_loss is {tuple(at.shape)} for one sample, expected (1,)"
    if not (off > at).all() or not off.isfinite().all():
        yield f"the loss 0.25 away from the target ({off.tolist()}) is not above the loss at it ({at.tolist()})"
