"""From a budget to a dial: how many layers a method may run, decided in closed loop on the ``tune`` episodes.

A method that can trade layers for success has one dial; a larger one runs fewer layers. What a dial comes to is only
known once the robot has acted with it, since a worse action leads to harder states. So dials are tried on episodes,
all on the same ones, and this file decides which to try next. It runs nothing itself: a :class:`Runner` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Protocol

LAYER_TOLERANCE = 0.1
"""Layers. A dial whose mean is this near to the target is good enough, wherever the episodes cannot tell so little."""
NOISE_SHARE = 0.05
"""Of the asked layers: what noise may excuse."""
MS_TOLERANCE = 0.03
"""Of the asked milliseconds, likewise."""
EVALUATIONS = 12
"""Dials tried for one number of layers."""
MS_ROUNDS = 3
GRID, HALVINGS = 8, 3
"""Of the search for the fewest layers within a drop of success."""
DECIMALS = 4
"""A dial is rounded to this, so that it can be read, typed and found again."""

DialRange = tuple[float, float]
"""The smallest dial (most layers) and the largest (fewest)."""


@dataclass(frozen=True)
class TargetLayers:
    """So many executed layers an inference on average, re-predictions counted."""

    layers: float

    def __str__(self) -> str:
        return f"{self.layers:g} layers"


@dataclass(frozen=True)
class TargetMs:
    """So many milliseconds of decoder layers an inference on average, at batch 1 on this machine."""

    ms: float

    def __str__(self) -> str:
        return f"{self.ms:g} ms"


@dataclass(frozen=True)
class MaxSuccessDrop:
    """The fewest layers that solve at most so many percentage points less than the full model.

    Of the episodes; where one is a chain, of its subtasks: a policy may solve many, and few chains to their end.
    """

    points: float

    def __str__(self) -> str:
        return f"at most {self.points:g} points of success lost"


Target = TargetLayers | TargetMs | MaxSuccessDrop


@dataclass(frozen=True)
class Outcome:
    """What a method came to on the tune episodes.

    Attributes:
        successes: Episodes solved, chains to their end.
        layers: Mean executed layers an inference.
        solved: Share of all subtasks; that of ``successes`` where an episode has one.
        layers_se: Standard error of ``layers`` over episodes; 0 if there is but one.
    """

    episodes: int
    successes: int
    layers: float
    solved: float
    layers_se: float = 0.0

    def runs(self, layers: float) -> bool:
        """Is ``layers`` what was run, as far as these episodes can tell?

        Within one standard error: to come nearer on the same episodes would fit their noise. The error that is left on
        other episodes grows by at most a sixth, to ``sqrt(1 + 1/3)`` errors, the target being anywhere in that range.
        But no farther than :data:`NOISE_SHARE`: budgets are to differ, however few the episodes.
        """
        return abs(self.layers - layers) <= max(LAYER_TOLERANCE, min(self.layers_se, NOISE_SHARE * layers))


@dataclass(frozen=True)
class Drop:
    """Loss of :attr:`Outcome.solved` against the full model on the same episodes, percentage points; a gain below zero.

    Attributes:
        low, high: 95 % interval: what chance may do on so few episodes.
    """

    points: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.points:.1f} points (95 % interval {self.low:.1f} to {self.high:.1f})"


Trials = Mapping[float, Outcome]
"""By dial."""
NONE: Trials = MappingProxyType({})


class Runner(Protocol):
    """Runs what is tried. Equal dials must give equal outcomes, all of them on the same episodes."""

    def full(self) -> Outcome:
        """The full model."""

    def at(self, dial: float) -> Outcome:
        """The method at ``dial``."""

    def drop(self, dial: float) -> Drop:
        """What the method loses at ``dial`` against the full model."""

    def ms_per_layer(self, dial: float | None) -> float:
        """Milliseconds of an executed layer at ``dial`` (``None``: of the full model), all between layers included."""


@dataclass(frozen=True)
class Found:
    """The answer.

    Attributes:
        dial: To be used.
        outcome: What it came to.
        met: Whether that is the target, within the tolerances above.
        tried: Every trial there was to choose from.
        ms: Milliseconds of decoder layers an inference at ``dial``; ``None`` if the target does not speak of time.
        drop: Success lost at ``dial``; ``None`` if the target does not speak of success.
    """

    target: Target
    dial: float
    outcome: Outcome
    met: bool
    tried: Trials
    ms: float | None = None
    drop: Drop | None = None


def find_dial(runner: Runner, dials: DialRange, target: Target) -> Found:
    """The dial of ``dials`` that meets ``target``, or comes nearest."""
    match target:
        case TargetLayers(layers):
            return find_layers(runner, dials, layers)
        case TargetMs(ms):
            return find_ms(runner, dials, ms)
        case MaxSuccessDrop(points):
            return find_success(runner, dials, points)


def find_layers(
    runner: Runner, dials: DialRange, layers: float, known: Trials = NONE, evaluations: int = EVALUATIONS
) -> Found:
    """The dial whose mean layers is nearest to ``layers``.

    The first dial is the middle of the range, the second half-way to the end that ``layers`` lies towards, the third
    that end. As soon as ``layers`` lies between two neighbours, in turn the dial where a straight line puts it and the
    one half-way, so that neither a bend nor a jump of the curve holds the search up. It ends where a trial
    :meth:`~Outcome.runs` as many, or after ``evaluations``.

    Args:
        runner: Runs the trials.
        dials: Where to search.
        layers: Mean executed layers an inference.
        known: Earlier trials of the same method on the same episodes; they cost nothing.
        evaluations: New trials at most, at least 1.
    """
    tried = dict(known)
    for _ in range(evaluations):
        dial = _next_dial(tried, dials, layers)
        if dial is None or dial in tried:
            break
        tried[dial] = runner.at(dial)
    best = min(tried, key=lambda dial: abs(tried[dial].layers - layers))
    return Found(TargetLayers(layers), best, tried[best], tried[best].runs(layers), tried)


def find_success(runner: Runner, dials: DialRange, points: float) -> Found:
    """The dial with the fewest layers that loses at most ``points`` percentage points of the full model's success.

    :data:`GRID` + 1 evenly spaced dials are walked from the smallest, up to the first that loses more. The gap before
    that one is then halved :data:`HALVINGS` times. A dial beyond one that lost too much is never taken, even if it
    would do by luck. All are compared on the same episodes, by :attr:`Outcome.solved`. What chance may hide in so few
    episodes is in the interval of :attr:`Found.drop`; the choice itself makes no allowance for it, since an interval of
    200 episodes is wider than a drop worth asking for.
    """
    full, low, tried = runner.full(), dials[0], dict[float, Outcome]()
    # A hair less than asked: 1 point of 100 episodes is 1 episode, whatever the rounding.
    least = full.solved - points / 100 - 1e-9

    def enough(dial: float) -> bool:
        tried[dial] = runner.at(dial)
        return tried[dial].solved >= least

    kept, lost = _walk(_grid(dials), enough)
    if kept is None:
        return Found(MaxSuccessDrop(points), low, tried[low], False, tried, drop=runner.drop(low))
    last = kept if lost is None else _halve(kept, lost, enough)
    best = min([dial for dial in tried if dial <= last], key=lambda dial: tried[dial].layers)
    return Found(MaxSuccessDrop(points), best, tried[best], True, tried, drop=runner.drop(best))


def find_ms(runner: Runner, dials: DialRange, ms: float) -> Found:
    """The dial at which the decoder layers of an inference take ``ms`` milliseconds.

    milliseconds = milliseconds per executed layer * executed layers

    The first factor is timed at batch 1, first of the full model and then of the method at the dial found, up to
    :data:`MS_ROUNDS` times; the second is measured in closed loop.
    """
    per_layer, known, rounds = runner.ms_per_layer(None), NONE, list[Found]()
    for _ in range(MS_ROUNDS):
        found = find_layers(runner, dials, ms / per_layer, known)
        known, per_layer = found.tried, runner.ms_per_layer(found.dial)
        taken = per_layer * found.outcome.layers
        rounds.append(replace(found, target=TargetMs(ms), ms=taken, met=abs(taken - ms) <= MS_TOLERANCE * ms))
        if rounds[-1].met:
            break
    best = min(rounds, key=lambda found: abs((found.ms or 0.0) - ms))
    return replace(best, tried=known)


def _next_dial(tried: Trials, dials: DialRange, layers: float) -> float | None:
    """Between the two neighbours that ``layers`` lies between; ``None`` if there is nothing to gain."""
    if any(outcome.runs(layers) for outcome in tried.values()):
        return None
    low, high = dials
    # Of an end that was not tried, only the side is known.
    runs = {low: math.inf, high: -math.inf} | {dial: outcome.layers for dial, outcome in tried.items()}
    brackets = [(a, b) for a, b in pairwise(sorted(runs)) if runs[a] > layers > runs[b]]
    if not brackets:
        return None
    # Chance can make the curve cross the target more than once: there where it is flattest, the most is known.
    a, b = min(brackets, key=lambda pair: runs[pair[0]] - runs[pair[1]])
    untried = [dial for dial in (a, b) if dial not in tried]
    if untried and len(tried) > 1:
        return untried[0]
    straight = not untried and len(tried) % 2 == 1
    share = (runs[a] - layers) / (runs[a] - runs[b]) if straight else 0.5
    return round(a + share * (b - a), DECIMALS)


def _grid(dials: DialRange) -> list[float]:
    """Evenly spaced, both ends included as they are."""
    low, high = dials
    return [low, *(round(low + (high - low) * step / GRID, DECIMALS) for step in range(1, GRID)), high]


def _walk(grid: Sequence[float], enough: Callable[[float], bool]) -> tuple[float | None, float | None]:
    """The last dial of ``grid`` before the first that is not ``enough``, and that one; ``None`` where there is none."""
    kept = None
    for dial in grid:
        if not enough(dial):
            return kept, dial
        kept = dial
    return kept, None


def _halve(kept: float, lost: float, enough: Callable[[float], bool]) -> float:
    """The largest dial found to be ``enough`` from ``kept`` on, below ``lost``."""
    for _ in range(HALVINGS):
        middle = round((kept + lost) / 2, DECIMALS)
        kept, lost = (middle, lost) if enough(middle) else (kept, middle)
    return kept
