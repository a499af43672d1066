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

from dyslctl.backbone import Backbone
from dyslctl.engine import RUN, Jump, LayerSchedule, Run, Step, forward
from dyslctl.jobs.latency import Clock, Episodes, Latency, device_clock
from dyslctl.policy import Policy
from dyslctl.types import LayerState, Observation


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
        """Start the wrapped schedule."""
        self._schedule.start(state)

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
    backbone: Backbone,
    policies: Mapping[str, Policy],
    episodes: Episodes,
    frames: int,
    clock: Clock | None = None,
    pruning: Container[str] = (),
) -> dict[str, PassShares]:
    """Where a pass through the layers spends its time, over the first ``frames`` frames, for every policy.

    Args:
        backbone: What the policies run on.
        policies: By name.
        episodes: Frames to show them.
        frames: How many.
        clock: Seconds; default: the wall clock, waiting for the device first.
        pruning: Names of those that prune tokens: their decisions are about these.
    """
    now = clock or device_clock(backbone.device)
    observations = [(step, frame) for episode in episodes for step, frame in enumerate(episode)]
    shares = {}
    for name, policy in policies.items():
        rows = []
        for step, observation in itertools.islice(itertools.cycle(observations), frames):
            if step == 0:
                policy.reset()
            policy.select_action(observation)  # moves the guidance on, so that the next decisions are the real ones
            rows.append(_clocked_pass(backbone, policy.schedule, observation, now))
        layers, decisions, adapters, afterwards = (np.sum(rows, axis=0) / np.sum(rows)).tolist()
        shares[name] = (
            PassShares(layers, 0.0, adapters, decisions + afterwards)
            if name in pruning
            else PassShares(layers + afterwards, decisions, adapters)
        )
    return shares


def parts_ms(latency: Latency, shares: PassShares) -> dict[str, float]:
    """Means, ms, that add up to the inference: the first pass apart from the second prediction."""
    mean = {part: float(latency.milliseconds(part).mean()) for part in ("encode", "guidance", "reprediction")}
    predicted_once = [timing for timing in latency.timings if not timing.report.verified] or latency.timings
    head = float(np.mean([timing.report.timings_ms["head"] for timing in predicted_once]))
    both = float((latency.milliseconds("llm") + latency.milliseconds("head")).mean())
    first_pass = both - mean["reprediction"] - head
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


def _clocked_pass(
    backbone: Backbone, schedule: LayerSchedule, observation: Observation, now: Clock
) -> tuple[float, float, float, float]:
    """Seconds of one pass in layers, decisions, adapters and after layers; the rest of the loop counts as layers."""
    clocked = ClockedSchedule(schedule, now)
    state = LayerState.of(backbone.encode([observation]))
    begin = now()
    forward(backbone, state, clocked)
    total = now() - begin
    apart = clocked.decisions, clocked.adapters, clocked.afterwards
    return total - sum(apart), *apart
