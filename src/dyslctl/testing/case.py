"""A backbone under test, and what its rules need to look at it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.engine import FullSchedule, LayerSchedule, Step, forward
from dyslctl.testing.report import Findings
from dyslctl.types import LayerInputs, LayerState, Observation, TokenKind

TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
"""Largest difference, relative to the largest value, between two sound orders of the same sums."""


@dataclass(frozen=True)
class Case:
    """A backbone and what it looks at."""

    backbone: Backbone
    observations: tuple[Observation, ...]

    def inputs(self) -> LayerInputs:
        """The first observation, encoded: batch 1."""
        return self.backbone.encode(self.observations[:1])

    def run(self, state: LayerState, schedule: LayerSchedule | None = None, first: int = 0) -> LayerState:
        """``state`` taken through the layers."""
        forward(self.backbone, state, schedule or FullSchedule(), first)
        return state

    def full(self) -> LayerState:
        """The first observation, taken through every layer."""
        return self.run(LayerState.of(self.inputs()))

    def predict(self, state: LayerState) -> Tensor:
        """A prediction by a head without a past."""
        self.backbone.reset()
        return self.backbone.predict(state)


class Keep(LayerSchedule):
    """Runs every layer and keeps a fork of the state before each."""

    def __init__(self) -> None:
        self.before_layer: list[LayerState] = []

    def before(self, layer: int, state: LayerState) -> Step:
        """Fork, then run."""
        self.before_layer.append(state.fork())
        return super().before(layer, state)


class At(LayerSchedule):
    """Takes one step of its own before one layer."""

    def __init__(self, layer: int, step: Step) -> None:
        self.layer, self.step = layer, step

    def before(self, layer: int, state: LayerState) -> Step:
        """Run, but for that one layer."""
        return self.step if layer == self.layer else super().before(layer, state)


def kept(state: LayerState) -> Tensor:
    """``[B, K]`` int64: all tokens but every other vision token.

    Where the layers see no vision, every other inner token that is neither proprio nor an action.
    """
    return torch.stack([_kept(kinds) for kinds in state.kinds])


def _kept(kinds: Tensor) -> Tensor:
    inner = torch.arange(1, len(kinds) - 1, device=kinds.device)
    inner = inner[(kinds[1:-1] != TokenKind.PROPRIO) & (kinds[1:-1] != TokenKind.ACTION)]
    vision = torch.nonzero(kinds >= TokenKind.VISION).flatten()
    keep = torch.ones_like(kinds, dtype=torch.bool)
    keep[(vision if len(vision) > 1 else inner)[1::2]] = False
    return torch.nonzero(keep).flatten()


def check_shape(case: Case, predicted: Tensor, batch: int) -> Findings:
    """Whether a prediction is finite and ``[B, N, A]``."""
    expected = (batch, case.backbone.spec.chunk_length, case.backbone.spec.action_dim)
    if tuple(predicted.shape) != expected:
        yield f"predict returns {tuple(predicted.shape)}, expected {expected}"
    elif not predicted.isfinite().all():
        yield "the prediction is not finite"


def ramp(case: Case) -> Tensor:
    """``[1, N, A]``, values from -0.9 to 0.9: a prediction that has every size."""
    spec = case.backbone.spec
    ramp = torch.linspace(-0.9, 0.9, spec.chunk_length * spec.action_dim, device=case.backbone.device)
    return ramp.to(case.backbone.dtype).reshape(1, spec.chunk_length, spec.action_dim)


def pose_dims(case: Case) -> list[int]:
    """The action dimensions that are not the gripper."""
    return [dim for dim in range(case.backbone.spec.action_dim) if dim != case.backbone.spec.gripper_dim]


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Largest absolute difference, relative to the largest reference value."""
    scale = reference.float().abs().max().clamp(min=1e-6)
    return float((value.float() - reference.float()).abs().max() / scale)
