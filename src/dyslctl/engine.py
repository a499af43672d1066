"""The heart: one loop over the decoder layers. Every method of this toolkit is a schedule for it.

Why an explicit loop and not hooks: it resumes at any layer, lets a schedule gather tokens between two layers, and a
faster runtime can replace it by captured graphs of the same plan (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from dyslctl.backbone import Backbone, BackboneSpec
from dyslctl.types import LayerState, Past, Ran, Through, map_tree


@dataclass(frozen=True)
class Run:
    """Execute the layer.

    Attributes:
        by: What runs it in place of ``run_layer``: from layer and state to the output ``[B, T, H]``.
        shares: ``by`` gives exactly the bits of ``run_layer`` and only collects something beside, so samples side by
            side may share a batch: :func:`forward_together` calls ``run_layer`` and never ``by``. Otherwise ``by`` runs
            the layer for its sample alone. Read only where there is a ``by``.
        tokens: How many of the state's tokens ``by`` takes through the layer, padding included; ``None``: all.
    """

    by: Callable[[int, LayerState], Tensor] | None = None
    shares: bool = False
    tokens: int | None = None


@dataclass(frozen=True)
class Jump:
    """Go on before layer ``to`` (``to == num_layers``: the head), handing the hidden state ``through`` an adapter.

    Attributes:
        through: Maps ``[B, T, H]`` to ``[B, T, H]``; ``None`` is the plain skip, the identity.
        keep: ``[B, K]`` int64 as in ``LayerState.select``, the only tokens to go on with; ``None`` keeps all. The state
            to resume from keeps all either way.
    """

    to: int
    through: Through | None = None
    keep: Tensor | None = None


@dataclass(frozen=True)
class Exit:
    """Leave now; the head reads the state as it is."""


Step = Run | Jump | Exit
RUN, EXIT = Run(), Exit()


class LayerSchedule:
    """What to do before each layer. This one, the base, runs them all.

    A schedule is made for one inference after another; ``start`` begins an inference.
    """

    def begin_episode(self, seed: int) -> None:
        """A new episode or instruction begins: forget the past. Randomness, if any, derives from ``seed``."""

    def start(self, state: LayerState) -> None:
        """A new inference begins. ``state`` is the state before the first executed layer."""

    def before(self, layer: int, state: LayerState) -> Step:
        """Decide about ``layer``. May call ``state.select`` to go on with a subset of the tokens."""
        return RUN

    def after(self, layer: int, state: LayerState) -> None:
        """``layer`` has run; ``state.hidden`` is its output. May call ``state.select`` too."""


class FullSchedule(LayerSchedule):
    """Every layer runs: the upstream model, bit for bit."""


@dataclass
class ForwardTrace:
    """What one pass through the layers did.

    Attributes:
        layers_run: Executed layers, in order.
        jumps: ``(from, to)`` of each jump.
        tokens: Number of tokens that went through each executed layer; as long as ``layers_run``.
        resume_layer: The layer of the first jump or exit, ``None`` if every layer ran.
        resume_state: The state before that layer. ``forward(..., resume_state, FullSchedule(), first=resume_layer)``
            completes it to the full pass, bit for bit; over the tokens that are left, where some had been gathered.
    """

    layers_run: list[int] = field(default_factory=list)
    jumps: list[tuple[int, int]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    resume_layer: int | None = None
    resume_state: LayerState | None = field(default=None, repr=False)

    def tokens_without(self, padding: int) -> list[int]:
        """``tokens``, less the ``padding`` that was among them (``LayerState.padding`` before the first layer)."""
        return [seen - padding for seen in self.tokens]


class Layers(Protocol):
    """What the loop needs of a backbone; training wraps one to run its layers in another way."""

    @property
    def spec(self) -> BackboneSpec:
        """Read for ``num_layers``."""

    def run_layer(self, layer: int, state: LayerState) -> Tensor:
        """As ``Backbone.run_layer``."""


def forward(backbone: Layers, state: LayerState, schedule: LayerSchedule, first: int = 0) -> ForwardTrace:
    """Take ``state`` through the decoder layers as ``schedule`` says.

    Args:
        backbone: Whose layers run.
        state: The state before layer ``first``. Its tensors are never written to, but the object moves on: fork it
            to keep the point.
        schedule: What to do before each layer.
        first: The layer to begin with; more than 0 resumes an earlier pass.

    Returns:
        What was executed; ``state`` now holds what the head reads.

    Raises:
        ValueError: If a schedule jumps backwards or past the head.
    """
    walk = _Walk(state, schedule, first, backbone.spec.num_layers)
    for layer in range(first, backbone.spec.num_layers):
        run = walk.step(layer)
        if run is not None:
            walk.ran(layer, run, (run.by or backbone.run_layer)(layer, state))
    return walk.trace


def forward_together(
    backbone: Backbone, states: Sequence[LayerState], schedules: Sequence[LayerSchedule], firsts: Sequence[int]
) -> list[ForwardTrace]:
    """:func:`forward` for several samples in lock-step: those that run a layer run it as one batch.

    Each sample keeps its own schedule, which sees its own state, and its own place: one may have jumped ahead or begun
    later. A matrix product over more rows rounds differently, so hidden states equal those of ``forward`` only up to
    that; a decision on the edge may then fall otherwise.

    Args:
        backbone: Whose layers run.
        states: One state a sample, batch size 1, as in :func:`forward`. Equal token counts share a batch.
        schedules: One a sample, no two the same object.
        firsts: The layer each begins with.

    Returns:
        One trace a sample.

    Raises:
        ValueError: If a schedule jumps backwards or past the head, or the arguments differ in length.
    """
    num_layers = backbone.spec.num_layers
    walks = [_Walk(*sample, num_layers) for sample in zip(states, schedules, firsts, strict=True)]
    contexts: _Contexts = {}
    for layer in range(min(firsts, default=num_layers), num_layers):
        running = list[tuple[_Walk, Run]]()
        for walk in walks:
            run = walk.step(layer)
            if run is None:
                continue
            if run.by is None or run.shares:
                running.append((walk, run))
            else:
                walk.ran(layer, run, run.by(layer, walk.state))
        _run_batches(backbone, layer, running, contexts)
    return [walk.trace for walk in walks]


def _run_batches(backbone: Backbone, layer: int, running: Sequence[tuple[_Walk, Run]], contexts: _Contexts) -> None:
    """Run ``layer`` for all of ``running``, one batch for those that may share it; updates ``contexts``."""
    for indices in _side_by_side([walk.state for walk, _ in running]):
        group = tuple(running[index][0] for index in indices)
        batch = _joined([walk.state for walk in group])
        # The same samples with as many tokens as before have the same positions, hence the same tables.
        key = batch.hidden.shape[1], group
        batch.context = contexts.get(key, batch.context)
        hidden = backbone.run_layer(layer, batch)
        contexts[key] = batch.context
        _hand_back(batch, group)
        for index, row in zip(indices, hidden.chunk(len(group)), strict=True):
            walk, run = running[index]
            walk.ran(layer, run, row)


def stackable(states: Sequence[LayerState]) -> list[list[int]]:
    """Indices of those ``states`` that a head may read as one batch.

    Token counts, shapes of the conditioning and what a head needs of the past are equal; one with padding stays alone.
    """
    found: dict[Hashable, list[int]] = {}
    for indices in _side_by_side(states):
        for index in indices:
            found.setdefault((indices[0], _needed(states[index].past)), []).append(index)
    return list(found.values())


def stack(states: Sequence[LayerState]) -> LayerState:
    """One group of :func:`stackable` as one batch; a state that is alone is handed back itself."""
    batch = _joined(states)
    if len(states) > 1 and _needed(states[0].past):
        batch.past = tuple(map(_joined_step, zip(*(state.past for state in states), strict=True)))
    return batch


def _side_by_side(states: Sequence[LayerState]) -> list[list[int]]:
    """Indices of those ``states`` that one layer may take as one batch, whatever they went through before."""
    groups: dict[Hashable, list[int]] = {}
    for index, state in enumerate(states):
        alone = None if state.mask is None else index
        groups.setdefault((state.hidden.shape[1], _shapes(state.conditioning), alone), []).append(index)
    return list(groups.values())


def _shapes(conditioning: Any) -> Hashable:
    """Of a sample's conditioning, tensor by tensor: equal ones can lie in one batch."""
    found: list[torch.Size] = []
    map_tree([conditioning], lambda tensors: found.append(tensors[0].shape[1:]))
    return tuple(found)


def _joined(states: Sequence[LayerState]) -> LayerState:
    """Tokens side by side, without a past."""
    if len(states) == 1:
        return states[0]
    return LayerState(
        hidden=torch.cat([state.hidden for state in states]),
        positions=torch.cat([state.positions for state in states]),
        kinds=torch.cat([state.kinds for state in states]),
        conditioning=map_tree([state.conditioning for state in states], torch.cat),
    )


def _needed(past: Past) -> tuple[Hashable, ...]:
    """What must be equal for heads to share a batch: nothing, where no layer kept anything for them."""
    if not any(isinstance(step, Ran) for step in past):
        return ()
    return tuple((s.layer, *(t.shape[1:] for t in s.kept)) if isinstance(s, Ran) else s for s in past)


def _joined_step(steps: tuple[Ran | Through, ...]) -> Ran | Through:
    """The same step of several pasts."""
    ran = [step for step in steps if isinstance(step, Ran)]
    return Ran.join(ran) if ran else steps[0]


def _hand_back(batch: LayerState, group: Sequence[_Walk]) -> None:
    """What the layer kept of a batch, to its samples. A sample that ran alone was its own batch."""
    if len(group) > 1:
        for step in batch.past:
            for walk, row in zip(group, step.rows() if isinstance(step, Ran) else [], strict=True):
                walk.state.past = (*walk.state.past, row)


class _Walk:
    """One sample's way through the layers; it stands before layer ``_next``."""

    def __init__(self, state: LayerState, schedule: LayerSchedule, first: int, num_layers: int) -> None:
        self.state, self.trace = state, ForwardTrace()
        self._schedule, self._next, self._num_layers = schedule, first, num_layers
        schedule.start(state)

    def step(self, layer: int) -> Run | None:
        """Do what the schedule says before ``layer``: jump or leave at once; a ``Run`` is handed back, to be done.

        ``None``: ``layer`` does not run, be it for this step or since an earlier one leads past it.
        """
        if layer < self._next:
            return None
        step = self._schedule.before(layer, self.state)
        if isinstance(step, Run):
            return step
        if self.trace.resume_layer is None:
            self.trace.resume_layer, self.trace.resume_state = layer, self.state.fork()
        if isinstance(step, Exit):
            self._next = self._num_layers
        else:
            self._jump(layer, step)
        return None

    def ran(self, layer: int, run: Run, hidden: Tensor) -> None:
        """``layer`` was executed as ``run`` says and gave ``hidden`` ``[B, T, H]``."""
        self.trace.layers_run.append(layer)
        self.trace.tokens.append(hidden.shape[1] if run.tokens is None else run.tokens)
        self.state.hidden = hidden
        self._schedule.after(layer, self.state)

    def _jump(self, layer: int, jump: Jump) -> None:
        if not layer < jump.to <= self._num_layers:
            raise ValueError(f"a jump must go forward: from layer {layer} to {jump.to} of {self._num_layers}")
        self.trace.jumps.append((layer, jump.to))
        if jump.keep is not None:
            self.state.select(jump.keep)
        if jump.through is not None:
            self.state.apply(jump.through)
        self._next = jump.to


_Contexts = dict[tuple[int, tuple[_Walk, ...]], Any]
"""By token count and samples: ``LayerState.context`` of the batch they were."""
