"""The full pass on fewer tokens: what a pruning could save at most, measured or predicted. No method chooses here.

Latency falls with the number of tokens in steps: a matrix product works in tiles, and where reading the weights or
launching kernels takes longer than computing, fewer tokens save nothing at all. So a share of tokens is not a share of
time, and it pays to prune down to the next step and no farther.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from dyslctl.backbone import Backbone, Workload
from dyslctl.devices.presets import DevicePreset
from dyslctl.devices.roofline import Usage, predict
from dyslctl.engine import RUN, LayerSchedule, Step
from dyslctl.errors import ConfigError
from dyslctl.jobs.latency import Episodes, Series, measure
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.policy import SchedulePolicy
from dyslctl.pruning.tokens import retain, views
from dyslctl.types import LayerState, Observation

Row = dict[str, Any]


class EvenlySpaced(LayerSchedule):
    """Every layer runs, on ``tokens`` tokens: before the first one visual tokens go, evenly."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def before(self, layer: int, state: LayerState) -> Step:
        """Drop them before layer 0."""
        if layer == 0:
            seen = torch.cat(views(state.kinds[0]))
            wanted = self._tokens - (state.kinds.shape[1] - len(seen))
            kept = torch.linspace(0, len(seen) - 1, wanted, device=seen.device).round().long()
            retain(state, [state.positions[0, seen[kept]]])
        return RUN


def alike(backbone: Backbone, frames: Episodes) -> list[list[Observation]]:
    """Those of the episodes that begin with as many tokens as the first: a longer prompt has more to start from."""
    count = backbone.encode([frames[0][0]]).kinds.shape[1]
    return [list(episode) for episode in frames if backbone.encode([episode[0]]).kinds.shape[1] == count]


def token_counts(backbone: Backbone, frames: Episodes, counts: Sequence[int]) -> list[int]:
    """``counts`` and all tokens of the first frame, most first.

    Raises:
        ConfigError: If there are no visual tokens, or fewer tokens are asked for than stay in any case, or more than
            there are.
    """
    kinds = backbone.encode([frames[0][0]]).kinds
    visual, every = sum(map(len, views(kinds[0]))), kinds.shape[1]
    return _descending(counts, every - visual + 1, every)


def measured_sweep(
    backbone: Backbone,
    frames: Episodes,
    counts: Sequence[int],
    series: Series,
    execute_horizon: int,
    progress: Progress = NO_PROGRESS,
) -> list[Row]:
    """One row for each of ``counts``, as :func:`token_counts` gives them, on frames that are :func:`alike`.

    Interleaved, as methods are.
    """
    policies = {str(count): SchedulePolicy(backbone, EvenlySpaced(count), execute_horizon) for count in counts}
    latency = measure(backbone, policies, frames, series, progress=progress)
    times = {count: (latency[str(count)].p50("llm"), latency[str(count)].p50("end_to_end")) for count in counts}
    return [row | {"source": "measured"} for row in _rows(times)]


def predicted_sweep(device: DevicePreset, workload: Workload, counts: Sequence[int], stack: str) -> list[Row]:
    """The same for a device that is not here. The model is smooth: it knows when reading weights binds, but no tiles.

    Raises:
        ConfigError: If more tokens are asked for than the workload has.
    """
    times = {}
    for count in _descending(counts, 1, workload.tokens):
        found = predict(device, replace(workload, tokens=count), Usage(workload.num_layers), stack=stack)
        times[count] = found.llm_ms, found.end_to_end_ms
    return [row | {"source": "predicted"} for row in _rows(times)]


def _descending(counts: Sequence[int], least: int, every: int) -> list[int]:
    wrong = [count for count in counts if not least <= count <= every]
    if wrong:
        raise ConfigError(
            f"--tokens {wrong[0]}: expected at least {least}, one more than stay in any case, and at most all {every}",
            hint=f"--tokens {every},{(least + every) // 2}",
        )
    return sorted({every, *counts}, reverse=True)


def _rows(times: Mapping[int, tuple[float, float]]) -> list[Row]:
    """``times``: tokens -> ms of the layers and of the whole inference, most tokens first.

    efficiency = (1 - t(n) / t(N)) / (1 - n / N)                          time saved over tokens saved
    ms_per_token = (t(m) - t(n)) / (m - n)                                from the count before: the height of a step
    """
    (every, (full, _)), *_ = times.items()
    steps = [None, *((times[a][0] - times[b][0]) / (a - b) for a, b in pairwise(times))]
    return [
        {
            "tokens": count,
            "llm_ms_p50": llm,
            "end_to_end_ms_p50": end_to_end,
            "speedup": full / llm,
            "saving_efficiency": (1 - llm / full) / (1 - count / every) if count < every else None,
            "ms_per_token": step,
        }
        for (count, (llm, end_to_end)), step in zip(times.items(), steps, strict=True)
    ]
