"""Prior-post skipping guidance (section 3.3): when controllers may decide, and when a decision is taken back.

Pre-skip prediction: each segment has a skipping-allow point; controllers before it are off. A fall of continuity moves
the points forward (Eq. 2), a rise moves them back (Eq. 3), for the next inference on.
Post-skip verification: at the first fall the action is predicted again with every layer, from the same observation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from dyslctl.dysl.continuity import Continuity, ContinuityTracker, action_weights
from dyslctl.dysl.partition import Segment
from dyslctl.errors import ConfigError

FAR = 600.0
"""Logits beyond which a threshold is at its end."""
ChunkPolicy = Literal["chunk_min", "per_action", "chunk_end", "first_action"]
Stride = int | Literal["adaptive"]


@dataclass(frozen=True)
class GuidanceSettings:
    """Thresholds of the guidance. ``eta_1`` and ``eta_2`` come from calibration: they scale with ``1/k``.

    Attributes:
        eta_1: ``< 0``; ``delta C`` below it is a fall.
        eta_2: ``>= 0``; ``delta C`` above it is a rise. Between the two nothing moves.
        k: Actions in the continuity window.
        tau: A controller skips if its probability exceeds this.
        tau_by_layer: Dynamic layer -> its own ``tau``, for those that have one.
        lenience: Logits that every controller is more willing to skip by than its ``tau`` says: the method's dial.
        chunk_policy: How a chunk of actions becomes falls and rises (see :func:`read_signals`).
        stride: Forward move in layers; ``adaptive`` is ``ceil(delta C / eta_1)``, always at least 2.
        gripper_weight: Weight of the gripper in Eq. 1.
        scale: ``[A]`` standard deviations to divide by in Eq. 1, or ``None``.

    Raises:
        ConfigError: If a value is out of its range.
    """

    eta_1: float
    eta_2: float
    k: int = 5
    tau: float = 0.5
    tau_by_layer: Mapping[int, float] = field(default_factory=dict)
    lenience: float = 0.0
    chunk_policy: ChunkPolicy = "chunk_min"
    stride: Stride = "adaptive"
    gripper_weight: float = 1.0
    scale: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.eta_1 < 0 <= self.eta_2:
            raise ConfigError(f"expected eta_1 < 0 <= eta_2, found eta_1={self.eta_1}, eta_2={self.eta_2}")
        if self.k < 1:
            raise ConfigError(f"continuity needs a window of k >= 1 actions, found {self.k}")
        if self.chunk_policy not in get_args(ChunkPolicy):
            raise ConfigError(f"chunk_policy: expected one of {get_args(ChunkPolicy)}, found '{self.chunk_policy}'")
        if self.stride != "adaptive" and not (isinstance(self.stride, int) and self.stride >= 1):
            raise ConfigError(f"stride: expected 'adaptive' or a whole number of layers >= 1, found {self.stride!r}")
        if not all(0 <= tau <= 1 for tau in (self.tau, *self.tau_by_layer.values())):
            raise ConfigError(f"tau must lie in [0, 1], found {self.tau} and {dict(self.tau_by_layer)}")

    def threshold(self, layer: int) -> float:
        """The probability above which the controller before ``layer`` skips: its ``tau``, moved by the lenience."""
        return shift_threshold(self.tau_by_layer.get(layer, self.tau), self.lenience)


def shift_threshold(tau: float, lenience: float) -> float:
    """``logit(tau') = logit(tau) - lenience``, but ``tau`` itself at 0, 0 and 1: always and never stay what they are.

    Never beyond ``tau`` on the wrong side: rounding must not move a calibrated threshold.
    """
    if lenience == 0 or tau in (0, 1):
        return tau
    shifted = 1 / (1 + (1 - tau) / tau * math.exp(min(max(lenience, -FAR), FAR)))
    return min(shifted, tau) if lenience > 0 else max(shifted, tau)


class SkippingAllowPoints:
    """One point per segment: the controller of dynamic layer ``j`` is active iff ``j >= l_g``.

    ``l_g`` goes from the segment's first layer (all controllers active) to its static layer (none): ``m + 1`` positions
    for ``m`` dynamic layers. All segments see the same ``delta C``.
    """

    def __init__(self, segments: Sequence[Segment], eta_1: float, eta_2: float, stride: Stride = "adaptive") -> None:
        self.segments = tuple(segments)
        self._eta_1, self._eta_2, self._stride = eta_1, eta_2, stride
        self._segment_of = {layer: g for g, segment in enumerate(self.segments) for layer in segment.layers}
        self.reset()

    def reset(self) -> None:
        """A new episode: skipping is allowed everywhere."""
        self.points = [segment.start for segment in self.segments]

    def allows(self, layer: int) -> bool:
        """Whether the controller of dynamic ``layer`` may decide."""
        return layer >= self.points[self._segment_of[layer]]

    def move(self, fall: float, rise: float) -> None:
        """Eq. 2 if ``fall < eta_1``, else Eq. 3 if ``rise > eta_2``; both are ``delta C`` for a single action.

        l <- min(l + ceil(delta C / eta_1), s)        fall, if l < s
        l <- l - 1                                    rise, if l > a
        """
        if fall < self._eta_1:
            stride = math.ceil(fall / self._eta_1) if self._stride == "adaptive" else self._stride
            self.points = [min(p + stride, s.stop) for p, s in zip(self.points, self.segments, strict=True)]
        elif rise > self._eta_2:
            self.points = [max(p - 1, s.start) for p, s in zip(self.points, self.segments, strict=True)]

    @property
    def positions(self) -> tuple[int, ...]:
        """Of each segment, how many of its dynamic layers are forced to run now: 0 to ``m``."""
        return tuple(p - s.start for p, s in zip(self.points, self.segments, strict=True))

    @property
    def protected_fraction(self) -> float:
        """Share of the dynamic layers that are forced to run now: 0 (none) to 1."""
        dynamic = sum(len(segment) for segment in self.segments)
        return sum(self.positions) / dynamic if dynamic else 1.0


@dataclass(frozen=True)
class Signal:
    """What one decision step of the guidance sees.

    Attributes:
        fall: Compared with ``eta_1``.
        rise: Compared with ``eta_2``.
    """

    fall: float
    rise: float


def read_signals(policy: ChunkPolicy, continuity: Continuity, previous_end: float | None) -> list[Signal]:
    """The falls and rises in a chunk, in order. The paper leaves chunks undefined (section 3.3 has one action).

    * ``chunk_min``: one signal; falls by the chunk's lowest ``delta C``, rises by the change of ``C`` over the chunk.
    * ``per_action``: one signal an action, the literal reading.
    * ``chunk_end``: the last action's ``delta C`` only.
    * ``first_action``: the chunk's first action only, continuity at inference rate.

    Args:
        policy: Which of them.
        continuity: Eq. 1 for the chunk's actions.
        previous_end: ``C`` at the end of the chunk before, ``None`` if undefined.

    Returns:
        No signal where ``delta C`` is still undefined.
    """
    defined = [delta for delta in continuity.deltas if delta is not None]
    if policy == "chunk_min":
        end = continuity.values[-1]
        rise = 0.0 if end is None or previous_end is None else end - previous_end
        return [Signal(min(defined), rise)] if defined else []
    if policy == "chunk_end":
        defined = [] if continuity.deltas[-1] is None else [continuity.deltas[-1]]
    return [Signal(delta, delta) for delta in defined]


@dataclass(frozen=True)
class GuidanceVerdict:
    """What the guidance makes of a predicted chunk.

    Attributes:
        first_drop: ``delta C`` falls below ``eta_1`` and had not before: verify.
        continuity: ``C`` after the chunk, ``None`` while undefined.
        signals: The falls and rises in it; none while ``delta C`` is undefined.
    """

    first_drop: bool
    continuity: float | None
    signals: tuple[Signal, ...]

    @property
    def delta(self) -> float | None:
        """The lowest ``delta C`` that the chunk policy looked at, ``None`` while undefined."""
        return min((signal.fall for signal in self.signals), default=None)


class SkipGuidance:
    """Continuity, verification trigger and skipping-allow points of one episode.

    ``preview`` a prediction, predict again if it says ``first_drop``, then ``commit`` what will be executed.

    Attributes:
        heed: What the allow points make of a signal; as it is, unless something else judges importance too.
    """

    heed: Callable[[Signal], Signal]

    def __init__(self, segments: Sequence[Segment], settings: GuidanceSettings, gripper_dim: int | None = None) -> None:
        self.settings = settings
        self.allow_points = SkippingAllowPoints(segments, settings.eta_1, settings.eta_2, settings.stride)
        self._gripper_dim = gripper_dim
        self._tracker: ContinuityTracker | None = None
        self.heed = lambda signal: signal
        self.reset()

    def reset(self) -> None:
        """A new episode or instruction begins."""
        self.allow_points.reset()
        self._last_fall = 0.0
        self._last_end: float | None = None
        if self._tracker is not None:
            self._tracker.reset()

    def preview(self, actions: np.ndarray) -> GuidanceVerdict:
        """Judge ``actions`` ``[n, A]``, normalised, the part of the chunk that would be executed. Changes nothing."""
        return self._judge(self._tracker_for(actions).preview(self._watched(actions)))

    def commit(self, actions: np.ndarray) -> GuidanceVerdict:
        """``actions`` will be executed: they become history and the allow points move, for the next inference."""
        verdict = self._judge(self._tracker_for(actions).commit(self._watched(actions)))
        for signal in verdict.signals:
            heeded = self.heed(signal)
            self.allow_points.move(heeded.fall, heeded.rise)
            self._last_fall = signal.fall
        self._last_end = verdict.continuity
        return verdict

    def _watched(self, actions: np.ndarray) -> np.ndarray:
        return actions[:1] if self.settings.chunk_policy == "first_action" else actions

    def _judge(self, continuity: Continuity) -> GuidanceVerdict:
        """First drop: ``delta C_t < eta_1`` and ``delta C_{t-1} > eta_1``; undefined before counts as 0."""
        signals = read_signals(self.settings.chunk_policy, continuity, self._last_end)
        falls = [self._last_fall, *(signal.fall for signal in signals)]
        eta_1 = self.settings.eta_1
        first_drop = any(now < eta_1 < before for before, now in pairwise(falls))
        return GuidanceVerdict(first_drop, continuity.values[-1], tuple(signals))

    def _tracker_for(self, actions: np.ndarray) -> ContinuityTracker:
        """Made at the first chunk, which tells the number of action dimensions."""
        if self._tracker is None:
            settings = self.settings
            weights = action_weights(actions.shape[1], self._gripper_dim, settings.gripper_weight, settings.scale)
            self._tracker = ContinuityTracker(settings.k, None if (weights == 1).all() else weights)
        return self._tracker
