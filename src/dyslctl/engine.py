"""The heart: one loop over the decoder layers. Every method of this toolkit is a schedule for it.

Why an explicit loop and not hooks: it resumes at any layer, lets a schedule gather tokens between two layers, and a
faster runtime can replace it by captured graphs of the same plan (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.types import LayerState


@dataclass(frozen=True)
class Run:
    """Execute the layer."""


@dataclass(frozen=True)
class Jump:
    """Go on before layer ``to`` (``to == num_layers``: the head), handing the hidden state ``through`` an adapter.

    ``through`` maps ``[B, T, H]`` to ``[B, T, H]``; ``None`` is the plain skip, the identity.
    """

    to: int
    through: Callable[[Tensor], Tensor] | None = None


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
        tokens: Number of tokens each executed layer saw; as long as ``layers_run``.
        exited_at: The layer before which the pass left, or ``None``.
        resume_layer: The layer of the first jump or exit, ``None`` if every layer ran.
        resume_state: The state before that layer. ``forward(..., resume_state, FullSchedule(), first=resume_layer)``
            completes it to the full pass, bit for bit.
    """

    layers_run: list[int] = field(default_factory=list)
    jumps: list[tuple[int, int]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    exited_at: int | None = None
    resume_layer: int | None = None
    resume_state: LayerState | None = field(default=None, repr=False)


def forward(backbone: Backbone, state: LayerState, schedule: LayerSchedule, first: int = 0) -> ForwardTrace:
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
    trace = ForwardTrace()
    schedule.start(state)
    layer, num_layers = first, backbone.spec.num_layers
    while layer < num_layers:
        step = schedule.before(layer, state)
        if isinstance(step, Run):
            trace.layers_run.append(layer)
            trace.tokens.append(state.hidden.shape[1])
            state.hidden = backbone.run_layer(layer, state)
            schedule.after(layer, state)
            layer += 1
            continue
        if trace.resume_layer is None:
            trace.resume_layer, trace.resume_state = layer, state.fork()
        if isinstance(step, Exit):
            trace.exited_at = layer
            break
        if not layer < step.to <= num_layers:
            raise ValueError(f"a jump must go forward: from layer {layer} to {step.to} of {num_layers}")
        trace.jumps.append((layer, step.to))
        state.hidden = state.hidden if step.through is None else step.through(state.hidden)
        layer = step.to
    return trace
