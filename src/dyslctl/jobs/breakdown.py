"""Where the time of one inference goes (Fig. 10): vision, layers, controllers, adapters, re-prediction, head, guidance.

Layers, controllers and adapters are told apart in a series of its own, because reading the clock at every layer costs
time itself; of that series only the shares are used.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dyslctl.engine import RUN, Jump, LayerSchedule, Run, Step, forward
from dyslctl.jobs.latency import Clock, Episodes, Latency, device_clock
from dyslctl.policy import Encode, Policy, Predict, Prediction, read_out
from dyslctl.types import LayerState, Observation

TIMED = ("encode", "llm", "head", "guidance", "reprediction")
"""What an inference tells of its time; the second prediction is inside ``llm`` and ``head``."""
Seconds = tuple[float, float, float, float]
"""Of one pass, in layers, decisions, adapters and after layers; the rest of the loop counts as layers."""


@dataclass(frozen=True)
class PassShares:
    """Shares of one pass through the layers, together 1.

    Attributes:
        layers: The layers themselves; where only some tokens run one, with the adapter of the others.
        controllers: Decisions about layers.
        adapters: What is run in the place of layers.
        tokens: Choosing and gathering tokens, attention rows included; where a method does both, all its decisions.
    """

    layers: float
    controllers: float
    adapters: float
    tokens: float = 0.0


class ClockedSchedule(LayerSchedule):
    """Another schedule, with a clock around its decisions and its jumps.

    Attributes:
        decisions: Seconds spent deciding: pooling, controllers, thresholds.
        adapters: Seconds spent in adapters.
        afterwards: Seconds spent once a layer has run: gathering tokens.
    """

    def __init__(self, schedule: LayerSchedule, now: Clock) -> None:
        self._schedule, self._now = schedule, now
        self.decisions = self.adapters = self.afterwards = 0.0

    def start(self, state: LayerState) -> None:
        """Start the wrapped schedule, and the clock on what it decides at once."""
        begin = self._now()
        self._schedule.start(state)
        self.decisions += self._now() - begin

    def before(self, layer: int, state: LayerState) -> Step:
        """The wrapped decision, and the clock on its adapter if it jumps.

        What a layer would give away beside its output is asked for apart, so that it can be timed: no less than it is.
        """
        begin = self._now()
        step = self._schedule.before(layer, state)
        self.decisions += self._now() - begin
        if isinstance(step, Run) and step.shares:
            return RUN
        return self._clocked(step) if isinstance(step, Jump) else step

    def after(self, layer: int, state: LayerState) -> None:
        """Tell the wrapped schedule."""
        begin = self._now()
        self._schedule.after(layer, state)
        self.afterwards += self._now() - begin

    def _clocked(self, jump: Jump) -> Jump:
        adapter = jump.through
        if adapter is None:
            return jump

        def through(hidden: Tensor) -> Tensor:
            begin = self._now()
            mapped = adapter(hidden)
            self.adapters += self._now() - begin
            return mapped

        return replace(jump, through=through)


@torch.inference_mode()
def pass_shares(
    policies: Mapping[str, Policy],
    episodes: Episodes,
    frames: int,
    clock: Clock | None = None,
    pruning: Container[str] = (),
) -> dict[str, PassShares]:
    """Where a pass through the layers spends its time, over the first ``frames`` frames, for every policy.

    Args:
        policies: By name, at least one, all on one device.
        episodes: Frames to show them.
        frames: How many.
        clock: Seconds; default: the wall clock, waiting for the device first.
        pruning: Names of those that prune tokens: their decisions are about these.
    """
    now = clock or device_clock(next(iter(policies.values())).backbone.device)
    observations = [(step, frame) for episode in episodes for step, frame in enumerate(episode)]
    shares = {}
    for name, policy in policies.items():
        rows = list[Seconds]()
        for step, observation in itertools.islice(itertools.cycle(observations), frames):
            if step == 0:
                policy.reset()
            rows += _clocked_passes(policy, observation, now)
        layers, decisions, adapters, afterwards = (np.sum(rows, axis=0) / np.sum(rows)).tolist()
        shares[name] = (
            PassShares(layers, 0.0, adapters, decisions + afterwards)
            if name in pruning
            else PassShares(layers + afterwards, decisions, adapters)
        )
    return shares


def parts_ms(latency: Latency, shares: PassShares) -> dict[str, float]:
    """:func:`divided`, of timed frames."""
    mean = {part: float(latency.milliseconds(part).mean()) for part in TIMED}
    return divided(mean, float(np.mean([timing.report.verified for timing in latency.timings])), shares)


def divided(mean: Mapping[str, float], verified: float, shares: PassShares) -> dict[str, float]:
    """Parts that add up to the inference: the first pass apart from the second prediction.

    Args:
        mean: Milliseconds an inference, of each part in :data:`TIMED`.
        verified: Second predictions an inference: each of them passes the head once more.
        shares: How the first pass divides.
    """
    head = mean["head"] / (1 + verified)
    first_pass = mean["llm"] + mean["head"] - mean["reprediction"] - head
    return {
        "encode": mean["encode"],
        "layers": first_pass * shares.layers,
        "controllers": first_pass * shares.controllers,
        "adapters": first_pass * shares.adapters,
        "tokens": first_pass * shares.tokens,
        "reprediction": mean["reprediction"],
        "head": head,
        "guidance": mean["guidance"],
    }


def _clocked_passes(policy: Policy, observation: Observation, now: Clock) -> list[Seconds]:
    """One inference, its passes on the clock; the second prediction is told apart elsewhere and left out here."""
    plan, rows = policy.plan(observation), list[Seconds]()
    answer: object = None
    while True:
        try:
            request = plan.send(answer)
        except StopIteration:
            return rows[:1] if policy.last.verified else rows
        if isinstance(request, Encode):
            answer = LayerState.of(request.backbone.encode([request.observation]))
        else:
            answer, seconds = _clocked_pass(request, now)
            rows.append(seconds)


def _clocked_pass(request: Predict, now: Clock) -> tuple[Prediction, Seconds]:
    clocked, begin = ClockedSchedule(request.schedule, now), now()
    trace = forward(request.backbone, request.state, clocked, request.first)
    total, apart = now() - begin, (clocked.decisions, clocked.adapters, clocked.afterwards)
    return read_out(request, trace), (total - sum(apart), *apart)
