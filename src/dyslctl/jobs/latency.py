"""Latency on this machine: methods interleaved in one process, batch 1, over consecutive frames of real episodes.

Every frame is given to every method before the next frame comes, in an order that rotates by one: drift of the clock,
the caches and other load then falls on all methods alike. Consecutive frames, because DySL's decisions depend on how
smoothly the last actions went on.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dyslctl.backbone import Backbone
from dyslctl.devices.roofline import Usage
from dyslctl.errors import ConfigError
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.jobs.trajectories import inference_steps
from dyslctl.policy import Policy, StepReport
from dyslctl.suite import Split, TaskSuite
from dyslctl.types import Observation

Clock = Callable[[], float]
"""Seconds. Differences count, the zero does not."""
Episodes = Sequence[Sequence[Observation]]
PARTS = ("encode", "llm", "head", "guidance")
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Series:
    """How long to measure.

    Attributes:
        warmup: Frames before the clock counts.
        iterations: Least number of timed inferences of each method.
        min_seconds: Least time spent on timed inferences, all methods together.
    """

    warmup: int = 5
    iterations: int = 60
    min_seconds: float = 2.0

    def __post_init__(self) -> None:
        if self.warmup < 0 or self.iterations < 1 or self.min_seconds < 0:
            raise ConfigError(f"expected warmup >= 0, iterations >= 1 and min_seconds >= 0, found {self}")


DEFAULT_SERIES = Series()


@dataclass(frozen=True)
class Timing:
    """One timed ``select_action``: its wall-clock time, ms, and what the policy says it did."""

    end_to_end_ms: float
    report: StepReport


@dataclass(frozen=True)
class Latency:
    """What the timed inferences of one method come to.

    Attributes:
        timings: In the order measured.
    """

    timings: tuple[Timing, ...]

    def milliseconds(self, part: str) -> np.ndarray:
        """``[inferences]`` float64, ms of ``end_to_end``, ``reprediction`` or one of ``encode, llm, head, guidance``.

        A second prediction is inside ``llm`` and ``head``; ``reprediction`` says how much of them it is.
        """
        if part == "end_to_end":
            return np.array([timing.end_to_end_ms for timing in self.timings])
        if part == "reprediction":
            return np.array([timing.report.reprediction_ms for timing in self.timings])
        return np.array([timing.report.timings_ms[part] for timing in self.timings])

    def p50(self, part: str) -> float:
        """The median, ms."""
        return float(np.median(self.milliseconds(part)))

    def mean(self, part: str) -> float:
        """The mean, ms. Skipping has two or more typical times, between which a median jumps; the mean adds up."""
        return float(self.milliseconds(part).mean())

    @property
    def layers(self) -> np.ndarray:
        """``[inferences]`` int64, layers run, those of a second prediction included."""
        return np.array([timing.report.layers_run for timing in self.timings])

    @property
    def mean_tokens(self) -> float:
        """Tokens that an executed layer saw; 0 if not known."""
        seen = [count for timing in self.timings for count in timing.report.tokens]
        return float(np.mean(seen)) if seen else 0.0

    @property
    def usage(self) -> Usage:
        """Layers, controllers, jumps and passes of the head of the average inference."""
        reports = [timing.report for timing in self.timings]
        return Usage(
            layers=float(self.layers.mean()),
            controllers=float(np.mean([len(report.consulted) for report in reports])),
            jumps=float(np.mean([len(report.jumps) for report in reports])),
            heads=1.0 + float(np.mean([report.verified for report in reports])),
        )

    def as_dict(self) -> dict[str, float | int]:
        """Percentiles and means with their units in the key names."""
        usage = self.usage
        result: dict[str, float | int] = {}
        for part in ("llm", "end_to_end"):
            values = self.milliseconds(part)
            result |= {f"{part}_ms_p{q}": float(np.percentile(values, q)) for q in PERCENTILES}
            result[f"{part}_ms_mean"] = float(values.mean())
        return {
            **result,
            "inferences": len(self.timings),
            "layers_run": usage.layers,
            "mean_tokens": self.mean_tokens,
            "controllers_per_inference": usage.controllers,
            "jumps_per_inference": usage.jumps,
            "verifications_per_inference": float(np.mean([timing.report.verified for timing in self.timings])),
        }


def measure(
    backbone: Backbone,
    policies: Mapping[str, Policy],
    episodes: Episodes,
    series: Series,
    *,
    clock: Clock | None = None,
    progress: Progress = NO_PROGRESS,
) -> dict[str, Latency]:
    """Time every policy on the same frames, interleaved.

    Args:
        backbone: What all policies run on.
        policies: Method name -> policy.
        episodes: Frames of each episode, in the order seen; taken from the start again if they do not last.
        series: How long to measure.
        clock: Seconds; default: the wall clock, waiting for the device first.
        progress: Told of each timed frame.

    Raises:
        ConfigError: If there is no policy or no frame.
    """
    if not policies or not any(episodes):
        raise ConfigError(f"nothing to measure: {len(policies)} methods on {sum(map(len, episodes))} frames")
    stand = _Stand(backbone, policies, clock or device_clock(backbone.device))
    timings: dict[str, list[Timing]] = {name: [] for name in policies}
    progress.start(series.iterations, "measuring latency")
    begin = stand.now()
    for index, (episode, step, observation) in enumerate(_without_end(episodes)):
        done = index - series.warmup
        if done == 0:
            begin = stand.now()
        if done >= series.iterations and stand.now() - begin >= series.min_seconds:
            break
        if step == 0:
            stand.reset(episode)
        for name in rotated(tuple(policies), index):
            timing = stand.time(name, observation)
            if done >= 0:
                timings[name].append(timing)
        progress.advance(1 if 0 <= done < series.iterations else 0)
    progress.close()
    return {name: Latency(tuple(values)) for name, values in timings.items()}


def device_clock(device: torch.device) -> Clock:
    """The wall clock; on a GPU it first waits for what was launched."""
    if device.type != "cuda":
        return time.perf_counter

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


def demonstration_frames(suite: TaskSuite, episodes: int, split: Split = "tune") -> list[list[Observation]]:
    """What a policy is shown in the first ``episodes`` of ``split``: every ``execute_horizon``-th expert frame.

    One list an instruction, since policies begin anew at each; a chain has several.
    """
    found = list[list[Observation]]()
    for spec in suite.demonstrated_episodes(split, episodes):
        demonstration = suite.demonstrate(spec)
        seen = [demonstration.observations[step] for step in inference_steps(demonstration, suite.execute_horizon)]
        by_instruction = itertools.groupby(seen, lambda observation: observation.instruction)
        found += [[observation.painted() for observation in group] for _, group in by_instruction]
    return found


def skip_efficiency(full_ms: float, skip_ms: float, fraction_skipped: float) -> float:
    """How much of the skipped work turns into saved time: 1 is all of it.

    SE = (T_full - T_skip) / (T_full * fraction of layers skipped)
    """
    return (full_ms - skip_ms) / (full_ms * fraction_skipped)


def measured_skip_efficiency(full: Latency, skipping: Latency, num_layers: int) -> float | None:
    """The median of SE over the inferences that saved layers; ``None`` if none did.

    ``T_full`` is the full model's median LLM time. Inferences with a second prediction save no layers and are left out.
    """
    full_ms = full.p50("llm")
    fractions = 1 - skipping.layers / num_layers
    pairs = zip(skipping.milliseconds("llm"), fractions, strict=True)
    efficiencies = [skip_efficiency(full_ms, ms, fraction) for ms, fraction in pairs if fraction > 0]
    return float(np.median(efficiencies)) if efficiencies else None


def controller_overhead(full_ms: float, controllers_ms: float) -> float:
    """What controllers cost that are asked at every dynamic layer and never skip: ``T_controllers / T_full - 1``."""
    return controllers_ms / full_ms - 1


def rotated(names: Sequence[str], frame: int) -> Iterator[str]:
    """``names``, beginning with another one at every frame."""
    first = frame % len(names)
    return itertools.chain(names[first:], names[:first])


def _without_end(episodes: Episodes) -> Iterator[tuple[int, int, Observation]]:
    """Episode number, step in it, and its frame; after the last episode the first again, under a new number."""
    for number, episode in enumerate(itertools.cycle(episodes)):
        for step, observation in enumerate(episode):
            yield number, step, observation


class _Stand:
    """The policies side by side. They share a backbone, hence a head: each finds its memory as it left it."""

    def __init__(self, backbone: Backbone, policies: Mapping[str, Policy], now: Clock) -> None:
        self._backbone, self._policies, self.now = backbone, policies, now
        self._memory: dict[str, object] = {}

    def reset(self, seed: int) -> None:
        for name, policy in self._policies.items():
            policy.reset(seed)
            self._memory[name] = self._backbone.snapshot()

    def time(self, name: str, observation: Observation) -> Timing:
        policy = self._policies[name]
        self._backbone.restore(self._memory[name])
        begin = self.now()
        policy.select_action(observation)
        elapsed = self.now() - begin
        self._memory[name] = self._backbone.snapshot()
        return Timing(elapsed * 1e3, policy.last)
