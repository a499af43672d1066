"""A policy turns observations into actions: what a robot, a rollout or a latency benchmark holds in its hands."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from dyslctl.backbone import Backbone
from dyslctl.engine import LayerSchedule, forward
from dyslctl.types import ActionChunk, LayerState, Observation


@dataclass(frozen=True)
class Consultation:
    """A controller was asked before ``layer`` and answered with its probability of skipping."""

    layer: int
    probability: float


@dataclass(frozen=True)
class StepReport:
    """What one ``select_action`` did.

    Attributes:
        layers: Executed layers, in order; a second prediction adds the layers it ran.
        timings_ms: Milliseconds of ``encode``, ``llm``, ``head`` and ``guidance``, second prediction included.
        jumps: ``(from, to)`` of each skip of the first pass.
        consulted: The controllers that were asked.
        verified: The action was predicted a second time, with every layer.
        reprediction_ms: The part of ``llm`` and ``head`` that the second prediction took.
        continuity: ``C`` after the chunk (Eq. 1), ``None`` while undefined.
        delta_continuity: The lowest ``delta C`` the guidance saw in the chunk, ``None`` while undefined.
    """

    layers: tuple[int, ...]
    timings_ms: Mapping[str, float]
    jumps: tuple[tuple[int, int], ...] = ()
    consulted: tuple[Consultation, ...] = ()
    verified: bool = False
    reprediction_ms: float = 0.0
    continuity: float | None = None
    delta_continuity: float | None = None

    @property
    def layers_run(self) -> int:
        """How many layers were executed, those of a second prediction counted."""
        return len(self.layers)


class Policy(ABC):
    """One robot's policy.

    Attributes:
        schedule: How it goes through the layers.
        last: What the last ``select_action`` did.
    """

    schedule: LayerSchedule
    last: StepReport

    @abstractmethod
    def reset(self, seed: int = 0) -> None:
        """A new episode or instruction begins. All randomness until the next reset derives from ``seed``."""

    @abstractmethod
    def select_action(self, observation: Observation) -> ActionChunk:
        """The next actions to execute, ``execute_horizon`` of them."""


class Stopwatch:
    """Milliseconds by part. On a GPU it waits for the device at both ends, so that a part owns what it launched."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.ms: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the time of the ``with`` block to ``part``."""
        begin = self._now()
        yield
        self.ms[part] = self.ms.get(part, 0.0) + (self._now() - begin) * 1e3

    @property
    def total_ms(self) -> float:
        """All parts together."""
        return sum(self.ms.values())

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class SchedulePolicy(Policy):
    """A backbone under any layer schedule, without guidance: the full model, random skipping, and the like."""

    def __init__(self, backbone: Backbone, schedule: LayerSchedule, execute_horizon: int) -> None:
        self._backbone = backbone
        self.schedule = schedule
        self._execute_horizon = execute_horizon

    def reset(self, seed: int = 0) -> None:
        """Forget the past, in the head and in the schedule."""
        self._backbone.reset()
        self.schedule.begin_episode(seed)

    @torch.inference_mode()
    def select_action(self, observation: Observation) -> ActionChunk:
        """Encode, run the layers as the schedule says, decode."""
        watch = Stopwatch(self._backbone.device)
        with watch("encode"):
            state = LayerState.of(self._backbone.encode([observation]))
        with watch("llm"):
            trace = forward(self._backbone, state, self.schedule)
        with watch("head"):
            chunk = self._backbone.decode_action(self._backbone.predict(state))[0]
        self.last = StepReport(tuple(trace.layers_run), {**watch.ms, "guidance": 0.0}, tuple(trace.jumps))
        return chunk.head(self._execute_horizon)
