"""Success against layers: curves pooled over training seeds, and one method compared with the others at equal layers.

Every seed's points are played from the same initial states. Intervals come from one joint resampling of seeds and
initial states (``statistics.crossed_bootstrap``), so that what the methods share - a hard initial state, a badly
trained seed - cancels in their differences. Success of a single seed is a count, and has the intervals of counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dyslctl.errors import ConfigError
from dyslctl.jobs.budget import LAYER_TOLERANCE
from dyslctl.jobs.curves import Point
from dyslctl.jobs.episodes import EpisodeRecord
from dyslctl.jobs.statistics import (
    crossed_bootstrap,
    mcnemar,
    paired_difference,
    percentile_interval,
    wilson,
    without_spread,
)

INTERVALS = (
    "95 %; of one seed: Wilson for success, adjusted Wald for its paired differences; all others: percentile "
    "bootstrap of seeds and initial states (crossed)"
)
SUCCESS, SCORE, LAYERS, INFERENCES, VERIFICATIONS, EPISODES = range(6)
"""Quantities of an episode."""
Interval = tuple[float, float]


@dataclass(frozen=True)
class PooledPoint:
    """A point of a curve over all seeds.

    Attributes:
        seeds, episodes: How many seeds, each on how many initial states.
        success_ci95: Of one seed Wilson's interval; and where every episode ended alike, since there is nothing to
            resample, that of one seed's episodes.
        layers_per_inference: Total layers over total inferences; re-predictions add layers and no inference.
    """

    method: str
    label: str
    budget: float | None
    seeds: int
    episodes: int
    success_rate: float
    success_ci95: Interval
    mean_score: float
    layers_per_inference: float
    layers_per_inference_ci95: Interval
    layers_per_episode: float
    layers_per_episode_ci95: Interval
    inferences_per_episode: float
    verifications_per_episode: float


@dataclass(frozen=True)
class Interpolated:
    """A rival read off its own curve at the method's layers: between its two neighbouring points, in a straight line.

    Attributes:
        difference: The method's success less the rival's.
    """

    rival_success_rate: float
    difference: float
    difference_ci95: Interval


@dataclass(frozen=True)
class Nearest:
    """The rival's point with the nearest layers, initial state by initial state.

    Attributes:
        delta_layers: The method's layers an inference less the rival's.
        difference: The method's success less the rival's.
        score_difference: Likewise of subtasks solved, for chains.
        wins: Initial states that the method solved with more of its seeds than the rival.
        losses: With fewer.
        p_value: Exact sign test of wins against losses; with one seed it is McNemar's test.
    """

    rival_label: str
    delta_layers: float
    delta_layers_per_episode: float
    difference: float
    difference_ci95: Interval
    score_difference: float
    score_difference_ci95: Interval
    wins: int
    losses: int
    ties: int
    p_value: float


@dataclass(frozen=True)
class Matched:
    """A point of the compared method against a rival.

    Attributes:
        interpolated: ``None`` where the rival's curve does not reach to within the tolerance that dials are set with.
    """

    method: str
    label: str
    rival: str
    interpolated: Interpolated | None
    nearest: Nearest


@dataclass(frozen=True)
class Pareto:
    """The curves and what they say."""

    pooled: Sequence[PooledPoint]
    matched: Sequence[Matched]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def pareto(points: Sequence[Point], compared: str) -> Pareto:
    """Pool ``points`` over seeds and compare the method ``compared`` with every other.

    Args:
        points: Of every seed the same methods and labels; a point without a seed stands in each.
        compared: Which method.

    Raises:
        ConfigError: If a seed lacks a point, or no initial state was played to its end at every point.
    """
    curves = _Curves(points)
    rivals = [name for name in dict.fromkeys(method for method, _ in curves.keys) if name != compared]
    return Pareto(
        [curves.pooled(place) for place in range(len(curves.keys))],
        [_match(curves, place, rival) for place in curves.of(compared) for rival in rivals],
    )


Key = tuple[str, str]
"""Method and label of a point."""


class _Curves:
    """All episodes in one array, and its resampled means.

    Attributes:
        keys: One for each point of each curve.
        values: ``[S, E, P, 6]``: seeds, initial states, points, quantities.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        self._seeds = sorted({point.seed for point in points if point.seed is not None}) or [0]
        by_key = _distinct(_by_key(points, self._seeds))
        self.keys, self._points = list(by_key), list(by_key.values())
        finished = _finished(points)
        rows = [[_rows(point, finished) for point in column] for column in self._points]
        self.values = np.array(rows).transpose(1, 2, 0, 3)
        flat = self.values.reshape(*self.values.shape[:2], -1)
        self._mean = flat.mean((0, 1)).reshape(len(rows), -1)
        self._draws = crossed_bootstrap(flat).reshape(-1, *self._mean.shape)

    def of(self, method: str) -> list[int]:
        """The places of one method's points."""
        return [place for place, (name, _) in enumerate(self.keys) if name == method]

    def means(self, places: Sequence[int] | int, quantity: int = SUCCESS) -> tuple[np.ndarray, np.ndarray]:
        """A quantity's mean at ``places``, and resampled: ``[...]`` and ``[RESAMPLES, ...]``."""
        return self._mean[places, quantity], self._draws[:, places, quantity]

    def layers(self, places: Sequence[int] | int, per: int = INFERENCES) -> tuple[np.ndarray, np.ndarray]:
        """Executed layers an inference, likewise; or an episode, of which every row holds 1."""
        return (
            self._mean[places, LAYERS] / self._mean[places, per],
            self._draws[:, places, LAYERS] / self._draws[:, places, per],
        )

    def pooled(self, place: int) -> PooledPoint:
        """One point over all seeds."""
        (layers, layers_drawn), (each, each_drawn) = self.layers(place), self.layers(place, EPISODES)
        setting, mean = self._points[place][0].setting, self._mean[place]
        return PooledPoint(
            method=setting.method,
            label=setting.label,
            budget=setting.budget,
            seeds=len({point.seed for point in self._points[place]}),
            episodes=self.values.shape[1],
            success_rate=float(mean[SUCCESS]),
            success_ci95=self._success_interval(place),
            mean_score=float(mean[SCORE]),
            layers_per_inference=float(layers),
            layers_per_inference_ci95=percentile_interval(layers_drawn),
            layers_per_episode=float(each),
            layers_per_episode_ci95=percentile_interval(each_drawn),
            inferences_per_episode=float(mean[INFERENCES]),
            verifications_per_episode=float(mean[VERIFICATIONS]),
        )

    def _success_interval(self, place: int) -> Interval:
        solved = self.values[:, :, place, SUCCESS]
        if len(solved) == 1 or solved.min() == solved.max():
            return wilson(int(solved[0].sum()), solved.shape[1])
        return percentile_interval(self._draws[:, place, SUCCESS])


def _match(curves: _Curves, place: int, rival: str) -> Matched:
    method, label = curves.keys[place]
    return Matched(method, label, rival, _interpolated(curves, place, rival), _nearest(curves, place, rival))


def _interpolated(curves: _Curves, place: int, rival: str) -> Interpolated | None:
    """The difference at equal layers; every resample has layers of its own, and so its own place on the curve."""
    places = curves.of(rival)
    (at, at_drawn), (layers, layers_drawn) = curves.layers(place), curves.layers(places)
    if len(places) < 2 or not layers.min() - LAYER_TOLERANCE <= at <= layers.max() + LAYER_TOLERANCE:
        return None
    (success, success_drawn), (other, other_drawn) = curves.means(place), curves.means(places)
    rival_success = float(interpolate(at[None], layers[None], other[None])[0])
    drawn = success_drawn - interpolate(at_drawn, layers_drawn, other_drawn)
    difference = float(success) - rival_success
    return Interpolated(rival_success, difference, _interval(drawn, difference, curves.values.shape[1], 1.0))


def _nearest(curves: _Curves, place: int, rival: str) -> Nearest:
    places, (at, _) = curves.of(rival), curves.layers(place)
    other = min(places, key=lambda candidate: abs(float(curves.layers(candidate)[0] - at)))
    success, score = _difference(curves, place, other, SUCCESS), _difference(curves, place, other, SCORE)
    seeds = len(curves.values)
    solved = curves.values[:, :, [place, other], SUCCESS].sum(0)
    wins, losses = int((solved[:, 0] > solved[:, 1]).sum()), int((solved[:, 0] < solved[:, 1]).sum())
    return Nearest(
        rival_label=curves.keys[other][1],
        delta_layers=float(at - curves.layers(other)[0]),
        delta_layers_per_episode=float(curves.layers(place, EPISODES)[0] - curves.layers(other, EPISODES)[0]),
        difference=success[0],
        difference_ci95=paired_difference(wins, losses, len(solved)) if seeds == 1 else success[1],
        score_difference=score[0],
        score_difference_ci95=score[1],
        wins=wins,
        losses=losses,
        ties=len(solved) - wins - losses,
        p_value=mcnemar(wins, losses),
    )


def _difference(curves: _Curves, place: int, other: int, quantity: int) -> tuple[float, Interval]:
    (mean, drawn), (rival_mean, rival_drawn) = curves.means(place, quantity), curves.means(other, quantity)
    difference, largest = float(mean - rival_mean), max(1.0, float(curves.values[..., quantity].max()))
    return difference, _interval(drawn - rival_drawn, difference, curves.values.shape[1], largest)


def _interval(drawn: np.ndarray, difference: float, states: int, largest: float) -> Interval:
    """Of a difference of values up to ``largest``, by its resamples; they tell nothing where all are equal."""
    if np.ptp(drawn) == 0:
        return without_spread(difference, states, (-largest, largest))
    return percentile_interval(drawn)


def interpolate(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Straight lines between the points ``x, y`` (``[R, K]``, in any order, K >= 2) at ``at`` ``[R]``; flat beyond."""
    order = np.argsort(x, axis=1)
    x, y = np.take_along_axis(x, order, 1), np.take_along_axis(y, order, 1)
    right = np.clip((x < at[:, None]).sum(1), 1, x.shape[1] - 1)[:, None]
    (x0, x1), (y0, y1) = ([np.take_along_axis(z, right - 1 + i, 1)[:, 0] for i in (0, 1)] for z in (x, y))
    width = np.where(x1 > x0, x1 - x0, 1.0)
    value: np.ndarray = y0 + np.clip((at - x0) / width, 0.0, 1.0) * (y1 - y0)
    return value


def _by_key(points: Sequence[Point], seeds: Sequence[int]) -> dict[Key, list[Point]]:
    """Method and label -> the point of each seed."""
    found = {(point.setting.method, point.setting.label, point.seed): point for point in points}
    columns: dict[Key, list[Point]] = {}
    for method, label, _ in found:
        column = [found.get((method, label, seed)) or found.get((method, label, None)) for seed in seeds]
        columns[method, label] = [point for point in column if point is not None]
        if len(columns[method, label]) < len(seeds):
            raise ConfigError(f"expected a point of '{method}' ({label}) for each of the seeds {list(seeds)}")
    return columns


def _distinct(columns: Mapping[Key, list[Point]]) -> dict[Key, list[Point]]:
    """Without points that repeat another label's settings in every seed: a dial can only go so far."""
    kept: dict[tuple[str, ...], Key] = {}
    for key, column in columns.items():
        kept.setdefault(tuple(point.setting.folder for point in column), key)
    return {key: columns[key] for key in kept.values()}


def _finished(points: Sequence[Point]) -> list[int]:
    """The initial states that every point played to the end."""
    done = [{record.index for record in point.records if record.done} for point in points]
    finished = sorted(set.intersection(*done))
    if not finished:
        raise ConfigError("nothing to compare: no initial state was played to its end at every point")
    return finished


def _rows(point: Point, finished: Sequence[int]) -> list[list[float]]:
    """``[E, 6]`` in the order of the quantities above."""
    by_index: Mapping[int, EpisodeRecord] = {record.index: record for record in point.records}
    return [_quantities(by_index[index]) for index in finished]


def _quantities(record: EpisodeRecord) -> list[float]:
    return [record.success, record.score, record.layers_run, record.inferences, record.verifications, 1.0]
