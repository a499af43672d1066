"""The whole pass through the layers beside other ways to run the same layers: ``bench --compare eager,transformers``.

Frame by frame, in an order that rotates, as in ``jobs/latency.py``; the ratio is taken frame by frame too, so that what
slows the machine for a while slows both sides of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dyslctl.backbone import Backbone
from dyslctl.engine import FullSchedule, forward
from dyslctl.errors import ConfigError
from dyslctl.jobs.latency import Clock, Series, device_clock, rotated
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.types import LayerInputs, LayerState, Observation

OURS, UPSTREAM, STOCK, COMPILED = "ours", "eager", "transformers", "transformers-compiled"
RIVALS = (UPSTREAM, STOCK, COMPILED)
"""Our loop over the plugin's own layers; the library's own forward of the same weights; that, compiled by torch."""


def interleaved(
    ways: Mapping[str, Callable[[Any], object]],
    items: Sequence[Any],
    series: Series,
    now: Clock,
    progress: Progress = NO_PROGRESS,
) -> dict[str, np.ndarray]:
    """Seconds that each of ``ways`` takes for an item: ``[rounds]`` float64, ``items`` over and over.

    Raises:
        ConfigError: If there is no item.
    """
    if not items:
        raise ConfigError("nothing to time: expected an item, found none")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    progress.start(series.iterations, "comparing the layers")
    begin = now()
    for index, item in enumerate(itertools.cycle(items)):
        done = index - series.warmup
        begin = now() if done == 0 else begin
        if done >= series.iterations and now() - begin >= series.min_seconds:
            break
        for name in rotated(tuple(ways), index):
            start = now()
            ways[name](item)
            if done >= 0:
                seconds[name].append(now() - start)
        progress.advance(1 if 0 <= done < series.iterations else 0)
    progress.close()
    return {name: np.array(values) for name, values in seconds.items()}


@torch.inference_mode()
def compare(
    ours: Backbone,
    upstream: Backbone,
    rivals: Sequence[str],
    observations: Sequence[Observation],
    series: Series,
    *,
    clock: Clock | None = None,
    progress: Progress = NO_PROGRESS,
) -> list[dict[str, Any]]:
    """One row for each of ``rivals``: milliseconds, ``ratio`` (theirs over ours, median of pairs), action error.

    Args:
        ours: The backbone on its backend.
        upstream: The same weights on ``eager``; ``ours`` itself if that is what it is.
        rivals: Of :data:`RIVALS`.
        observations: Frames to run on.
        series: How long.
        clock: Seconds; default: the wall clock, waiting for the device first.
        progress: Told of each round.

    Raises:
        ConfigError: If a rival is unknown, or the backbone has no such counterpart.
    """
    inputs = [ours.encode([observation]) for observation in observations]
    ways: dict[str, Callable[[LayerInputs], object]] = {OURS: _loop(ours)}
    unable: dict[str, str] = {}
    for name in rivals:
        way = _way(name, upstream)
        why = _prepared(way, inputs) if name == COMPILED else None
        if why is None:
            ways[name] = way
        else:
            unable[name] = why
    seconds = interleaved(ways, inputs, series, clock or device_clock(ours.device), progress)
    errors = {UPSTREAM: action_error(ours, upstream, inputs)} if UPSTREAM in ways else {}
    return [
        {"against": name, "why_not": unable[name]}
        if name in unable
        else {"against": name, **_row(seconds[OURS], seconds[name]), **errors.get(name, {})}
        for name in rivals
    ]


def action_error(ours: Backbone, upstream: Backbone, inputs: Sequence[LayerInputs]) -> dict[str, float]:
    """How far the full pass's normalised actions are apart: the mean over all of them, and the largest."""
    apart = []
    for one in inputs:
        predicted = []
        for backbone in (ours, upstream):
            backbone.reset()
            predicted.append(backbone.predict(_loop(backbone)(one)).float())
            backbone.reset()
        apart.append((predicted[0] - predicted[1]).abs())
    every = torch.cat(apart)
    return {"action_error_mean": float(every.mean()), "action_error_max": float(every.max())}


def _loop(backbone: Backbone) -> Callable[[LayerInputs], LayerState]:
    def run(inputs: LayerInputs) -> LayerState:
        state = LayerState.of(inputs)
        forward(backbone, state, FullSchedule())
        return state

    return run


def _way(name: str, upstream: Backbone) -> Callable[[LayerInputs], object]:
    if name == UPSTREAM:
        return _loop(upstream)
    if name == STOCK:
        return upstream.stock_layers()
    if name == COMPILED:
        return torch.compile(upstream.stock_layers())
    raise ConfigError(f"--compare: expected {', '.join(RIVALS)}, found '{name}'")


def _prepared(way: Callable[[LayerInputs], object], inputs: Sequence[LayerInputs]) -> str | None:
    """Compile for every shape before the clock counts. The reason if it fails: a compiler may be missing."""
    try:
        for one in {each.hidden.shape: each for each in inputs}.values():
            way(one)
            way(one)
    except Exception as error:  # whatever a compiler raises
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return None


def _row(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    return {
        "layers_ms_p50": float(np.median(theirs)) * 1e3,
        "ours_ms_p50": float(np.median(ours)) * 1e3,
        "ratio": float(np.median(theirs / ours)),
    }
