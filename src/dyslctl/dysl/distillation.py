"""Skip-aware two-stage knowledge distillation (section 3.4): losses and the training forward, no loop and no files.

Stage 1 teaches every adapter to stand in for the layers it replaces (Eq. 4). Stage 2 mixes the skipped and the full
path with the controller's own probability (Eq. 5) under a price on the layers that run (Eq. 6). The backbone stays
frozen; gradients flow through it to earlier segments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dyslctl.backbone import Backbone, BackboneSpec
from dyslctl.dysl.partition import LayerPartition, harmonic_law
from dyslctl.dysl.skip_modules import SkipModules, TokenPool
from dyslctl.engine import Layers, LayerSchedule, Step, forward
from dyslctl.errors import ConfigError
from dyslctl.types import LayerInputs, LayerState

Norm = Literal["fro_rms", "fro", "mse", "token_l2"]
SamplingLaw = Literal["harmonic", "linear", "uniform"]
EPS = 1e-12


def stage1_loss(
    modules: SkipModules, states: Sequence[Tensor], mask: Tensor | None = None, norm: Norm = "fro_rms"
) -> dict[int, Tensor]:
    """Eq. 4, term by term: ``|a_i(h_i) - h_s|_F`` for every dynamic layer ``i``; the loss is their sum.

    One frozen pass gives every input and every target.

    Args:
        modules: Whose adapters learn.
        states: ``h_0 .. h_L``, each ``[B, T, H]``.
        mask: ``[B, T]`` bool, true for real tokens; ``None`` if all are.
        norm: ``fro_rms`` divides the norm by ``sqrt(T H)``, so that layers and sequence lengths weigh alike; ``fro`` is
            the literal formula per sample; ``mse`` its mean square; ``token_l2`` the mean norm of a token's error.

    Returns:
        Dynamic layer -> scalar fp32 loss, mean over the batch.
    """
    return {
        layer: _error_norm(modules.adapter(layer)(states[layer]) - states[modules.landing(layer)], mask, norm)
        for layer in modules.partition.dynamic_layers
    }


def _error_norm(error: Tensor, mask: Tensor | None, norm: Norm) -> Tensor:
    """``[B, T, H]`` -> scalar. ``EPS`` keeps the root differentiable at zero."""
    per_token = error.float().square().sum(-1)
    valid = torch.ones_like(per_token) if mask is None else mask.float()
    tokens = valid.sum(1)
    if norm == "token_l2":
        return (((per_token + EPS).sqrt() * valid).sum(1) / tokens).mean()
    squared = (per_token * valid).sum(1)
    mean_square = squared / (tokens * error.shape[-1])
    if norm == "mse":
        return mean_square.mean()
    return ((squared if norm == "fro" else mean_square) + EPS).sqrt().mean()


@torch.no_grad()
def calibrate_scales(modules: SkipModules, batches: Iterable[tuple[Sequence[Tensor], Tensor | None]]) -> None:
    """Set every adapter's fixed ``scale`` to ``RMS(h_s - h_i)``, what the layers it replaces add to the stream.

    Args:
        modules: Changed in place.
        batches: ``(h_0 .. h_L, mask)`` of one or more frozen passes.

    Raises:
        ConfigError: If there is no batch.
    """
    partition, means = modules.partition, []
    for states, mask in batches:
        means.append(
            [_error_norm(states[modules.landing(i)] - states[i], mask, "mse").item() for i in partition.dynamic_layers]
        )
    if not means:
        raise ConfigError("calibrating the adapters' scales needs at least one batch, found none")
    for layer, mean_square in zip(partition.dynamic_layers, np.mean(means, axis=0), strict=True):
        modules.adapter(layer).scale.fill_(math.sqrt(mean_square))


def sample_exits(partition: LayerPartition, rng: np.random.Generator, law: SamplingLaw = "harmonic") -> tuple[int, ...]:
    """One dynamic layer per segment for one training step.

    ``harmonic``, as the paper: ``P(offset j) = (1/j) / H_m``, early layers of a segment most often. ``linear`` falls as
    ``m - j + 1``; ``uniform`` does not fall.
    """
    return tuple(
        segment.start + int(rng.choice(len(segment), p=_sampling_law(law, len(segment))))
        for segment in partition.segments
    )


def _sampling_law(law: SamplingLaw, length: int) -> np.ndarray:
    if law == "harmonic":
        return harmonic_law(length)
    weights = np.arange(length, 0, -1.0) if law == "linear" else np.ones(length)
    return np.asarray(weights / weights.sum())


class MixSchedule(LayerSchedule):
    """Eq. 5: in each segment one layer ``i`` is sampled, and the two ways to the next static layer ``s`` are mixed.

        h_s <- c * a_i(h_i) + (1 - c) * h_s,    c = sigmoid(controller_i(h_i)) in (0, 1), one a sample

    All layers run; ``gates`` collects ``c`` ``[B]`` by layer. Where a skip reaches over its own layer alone, all layers
    may be sampled at once, with ``s = i + 1``. A subclass may read tokens one by one: then ``c`` is ``[B, T]``.
    """

    def __init__(self, modules: SkipModules, exits: Sequence[int], *, hard: bool = False) -> None:
        """``hard`` mixes with the decision ``c > 0.5`` and lets gradients pass as if it were ``c``."""
        self._modules = modules
        self._exits = frozenset(exits)
        self._joins = {modules.landing(layer): layer for layer in exits}
        self._hard = hard
        self.gates: dict[int, Tensor] = {}

    def start(self, state: LayerState) -> None:
        """A new batch: nothing sampled yet."""
        self.gates, self._estimates = {}, dict[int, Tensor]()
        self._read = self.reader(state)

    def reader(self, state: LayerState) -> Callable[[Tensor], Tensor]:
        """What the controllers are given of a hidden state ``[B, T, H]``: here its pool ``[B, H]``."""
        return TokenPool.of(self._modules.sizes.pool, state)

    def before(self, layer: int, state: LayerState) -> Step:
        """At a sampled layer: what a skip here would hand on, and how likely it is."""
        if layer in self._exits:
            logits = self._modules.controller(layer)(self._read(state.hidden))
            self.gates[layer] = logits.float().sigmoid()
            state.apply(partial(self._branch, layer))
        return super().before(layer, state)

    def after(self, layer: int, state: LayerState) -> None:
        """Right before the next static layer (or the head): mix the two paths."""
        origin = self._joins.get(layer + 1)
        if origin is not None:
            state.apply(partial(self._mix, origin))

    def _branch(self, layer: int, hidden: Tensor) -> Tensor:
        """The skipped path leaves here; its estimate waits where the paths meet."""
        self._estimates[layer] = self._modules.adapter(layer)(hidden)
        return hidden

    def _mix(self, layer: int, hidden: Tensor) -> Tensor:
        gate = self._mixing(self.gates[layer]).to(hidden.dtype).view(len(hidden), -1, 1)
        return gate * self._estimates[layer] + (1 - gate) * hidden

    def _mixing(self, gate: Tensor) -> Tensor:
        return (gate > 0.5).float() + gate - gate.detach() if self._hard else gate


@dataclass(frozen=True)
class Recomputed:
    """A backbone's layers with gradient checkpointing (Chen et al. 2016): the same numbers, in less memory.

    For the gradient of a layer its inside is computed once more instead of being kept: of each layer only the hidden
    state ``[B, T, H]`` before it stays in memory, and training takes about a third more computation.
    """

    backbone: Backbone

    @property
    def spec(self) -> BackboneSpec:
        """The backbone's."""
        return self.backbone.spec

    def run_layer(self, layer: int, state: LayerState) -> Tensor:
        """The backbone's layer. ``state`` moves on before the gradient is asked for, so that a fork of it is kept."""
        before = state.fork()

        def run(hidden: Tensor) -> Tensor:
            before.hidden = hidden
            return self.backbone.run_layer(layer, before)

        output: Tensor = checkpoint(run, state.hidden, use_reentrant=False, preserve_rng_state=False)
        state.context, state.past = before.context, before.past
        return output


def compute_penalty(gates: Mapping[int, Tensor], partition: LayerPartition) -> Tensor:
    """Eq. 6 without its weight: ``sum_g (1 - c_i)(s - i)``, the layers that keeping costs; mean over the batch."""
    return torch.stack([((1 - c) * (partition.next_static(i) - i)).mean() for i, c in gates.items()]).sum()


Penalty = Callable[[Mapping[int, Tensor], LayerPartition], Tensor]
"""What the layers that run cost: skip probabilities ``c``, ``[B]`` or ``[B, T]``, by layer -> a scalar."""


@dataclass(frozen=True)
class Stage2Settings:
    """What stage 2 minimises: ``task + kd_weight * kd + penalty_weight * penalty``.

    Attributes:
        penalty_weight: ``lambda`` of Eq. 6.
        kd_weight: Weight of the L1 distance to the full model's action; the paper has no such term.
        hard: Train with the decision that inference takes, straight through (see :class:`MixSchedule`).
        window: Consecutive inferences that the rows of a batch come in; see :func:`predict_windows`.
        recompute: Gradient checkpointing of the decoder layers (see :class:`Recomputed`).
    """

    penalty_weight: float
    kd_weight: float = 0.0
    hard: bool = False
    window: int = 1
    recompute: bool = False


@dataclass(frozen=True)
class Stage2Loss:
    """Eq. 6 and its parts, scalars; ``gates`` holds ``c``, ``[B]`` or ``[B, T]``, of the sampled layers."""

    total: Tensor
    task: Tensor
    kd: Tensor
    penalty: Tensor
    gates: Mapping[int, Tensor]

    def parts(self) -> dict[str, float]:
        """What a loss curve shows beside the total; ``gate`` is the mean of all gates."""
        gate = torch.stack(list(self.gates.values())).mean()
        return {"task": self.task.item(), "penalty": self.penalty.item(), "gate": gate.item()}


def stage2_loss(
    backbone: Backbone,
    modules: SkipModules,
    inputs: LayerInputs,
    target: Tensor,
    exits: Sequence[int],
    settings: Stage2Settings,
    price: Penalty = compute_penalty,
    mix: type[MixSchedule] = MixSchedule,
) -> Stage2Loss:
    """One training forward (Eq. 5) and its loss (Eq. 6).

    Args:
        backbone: Frozen; its head keeps no memory across windows.
        modules: What learns.
        inputs: ``B`` encoded observations, window after window.
        target: ``[B, N, A]`` normalised expert actions.
        exits: One dynamic layer per segment, from :func:`sample_exits`.
        settings: Weights of the terms.
        price: The penalty without its weight.
        mix: How the two paths are mixed.
    """
    schedule, state = mix(modules, exits, hard=settings.hard), LayerState.of(inputs)
    layers: Layers = Recomputed(backbone) if settings.recompute else backbone
    forward(layers, state, schedule)
    predicted = predict_windows(backbone, state, settings.window)
    task = backbone.task_loss(predicted, target).mean()
    kd = torch.zeros_like(task)
    if settings.kd_weight:
        kd = (predicted - full_actions(backbone, inputs, settings.window)).abs().mean()
    penalty = price(schedule.gates, modules.partition)
    total = task + settings.kd_weight * kd + settings.penalty_weight * penalty
    return Stage2Loss(total, task, kd, penalty, schedule.gates)


@torch.no_grad()
def full_actions(backbone: Backbone, inputs: LayerInputs, window: int = 1) -> Tensor:
    """``[B, N, A]``: what the full model would do, normalised."""
    state = LayerState.of(inputs)
    forward(backbone, state, LayerSchedule())
    return predict_windows(backbone, state, window)


def predict_windows(backbone: Backbone, state: LayerState, window: int) -> Tensor:
    """``[B, N, A]``: the head's predictions, window after window; none of them knows of the others.

    Alone, an inference has the past that lies beside it (``state.history``), as the full model left it. In a window the
    head begins with nothing and remembers what came of the inferences before, skipped layers and all, and the gradient
    goes back through what it remembers, as RoboFlamingo is trained.

    Args:
        backbone: Whose head predicts.
        state: After the last layer; ``B`` is a multiple of ``window``. No sample is padded, none generates.
        window: Consecutive inferences of one instruction.
    """
    backbone.reset()
    if window == 1:
        return backbone.predict(state)
    steps = [slice(step, None, window) for step in range(window)]
    seen = [LayerState(state.hidden[rows], state.positions[rows], state.kinds[rows]) for rows in steps]
    predicted = torch.stack([backbone.predict(each) for each in seen], 1)
    backbone.reset()
    return predicted.flatten(0, 1)
