"""A policy turns observations into actions: what a robot, a rollout or a latency benchmark holds in its hands."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.engine import ForwardTrace, FullSchedule, LayerSchedule, forward
from dyslctl.types import ActionChunk, LayerState, Observation


@dataclass(frozen=True)
class Consultation:
    """Something trained was asked before ``layer``.

    Attributes:
        answer: A controller's probability of skipping, or the planner's log damage of the first exit.
    """

    layer: int
    answer: float


@dataclass(frozen=True)
class StepReport:
    """What one control step did.

    Attributes:
        layers: Executed layers, in order; a second prediction adds the layers it ran.
        timings_ms: Milliseconds of ``encode``, ``llm``, ``head`` and ``guidance``, second prediction included. Empty
            if the step was not run alone: computed together with others it has no time of its own.
        jumps: ``(from, to)`` of each skip of the first pass.
        consulted: The controllers that were asked; or the planner.
        verified: The action was predicted again, with more layers.
        reprediction_ms: The part of ``llm`` and ``head`` that predicting again took.
        continuity: ``C`` after the chunk (Eq. 1), ``None`` while undefined.
        delta_continuity: The lowest ``delta C`` the guidance saw in the chunk, ``None`` while undefined.
        predicted: The whole chunk, of which the first actions are executed.
        tokens: How many tokens, padding apart, went through each of ``layers``; empty if that is not known.
        noted: What a study wants to know of the step, by name (``analysis/``).
    """

    layers: tuple[int, ...]
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    jumps: tuple[tuple[int, int], ...] = ()
    consulted: tuple[Consultation, ...] = ()
    verified: bool = False
    reprediction_ms: float = 0.0
    continuity: float | None = None
    delta_continuity: float | None = None
    predicted: ActionChunk | None = None
    tokens: tuple[int, ...] = ()
    noted: Mapping[str, float] = field(default_factory=dict)

    @property
    def layers_run(self) -> int:
        """How many layers were executed, those of a second prediction counted."""
        return len(self.layers)


@dataclass(frozen=True)
class Encode:
    """What a plan asks first. The answer is the :class:`LayerState` before layer 0."""

    backbone: Backbone
    observation: Observation


@dataclass(frozen=True)
class Predict:
    """Take ``state`` through the layers from ``first`` on, and the head. The answer is a :class:`Prediction`.

    Attributes:
        memory: What the head remembers (``Backbone.snapshot``) where several episodes share it; ``None``: what it does.
    """

    backbone: Backbone
    state: LayerState
    schedule: LayerSchedule
    first: int = 0
    memory: object = None


@dataclass(frozen=True)
class Prediction:
    """The answer to :class:`Predict`.

    Attributes:
        chunk: The whole chunk, decoded.
        predicted: ``[N, A]``, what the head said, normalised: the gripper not yet decided.
        trace: What the pass did.
        memory: What the head then remembers, if the request said what it did before.
    """

    chunk: ActionChunk
    predicted: Tensor
    trace: ForwardTrace
    memory: object = None


Request = Encode | Predict
Plan = Generator[Request, Any, ActionChunk]
"""One control step: yields requests, is sent their answers, and returns the actions to execute."""


class Policy(ABC):
    """One robot's policy.

    Its control step is written once, as :meth:`plan`. ``select_action`` runs a plan alone, for a robot or a benchmark;
    an evaluation runs many side by side and answers what they ask in one batch (``jobs/lockstep.py``).

    Attributes:
        backbone: The frozen model; policies may share it.
        schedule: How it goes through the layers.
        last: What the last control step did.
    """

    backbone: Backbone
    schedule: LayerSchedule
    last: StepReport

    @abstractmethod
    def reset(self, seed: int = 0) -> None:
        """A new episode or instruction begins. All randomness until the next reset derives from ``seed``."""

    @abstractmethod
    def plan(self, observation: Observation) -> Plan:
        """The next control step; leaves its report, without timings, in ``last``."""

    @torch.inference_mode()
    def select_action(self, observation: Observation) -> ActionChunk:
        """The next ``execute_horizon`` actions. Timed part by part; what the plan does itself is ``guidance``."""
        watch, passes_ms = Stopwatch(self.backbone.device), list[float]()
        plan, answer = self.plan(observation), None
        while True:
            with watch("guidance"):
                try:
                    request = plan.send(answer)
                except StopIteration as end:
                    chunk: ActionChunk = end.value
                    break
            before = watch.total_ms
            answer = _answer(request, watch)
            if isinstance(request, Predict):
                passes_ms.append(watch.total_ms - before)
        again_ms = sum(passes_ms[1:]) if self.last.verified else 0.0
        self.last = replace(self.last, timings_ms=watch.ms, reprediction_ms=again_ms)
        return chunk

    def twin(self) -> Self:
        """The same policy for another robot: the same weights, a past of its own. ``reset`` it before use.

        A head's memory is the backbone's, and stays one: where plans run side by side it is exchanged with them
        (``jobs/lockstep.py``).
        """
        # Weights stay shared: those of the backbone by the memo, bound adapters because functions are not copied.
        return deepcopy(self, {id(self.backbone): self.backbone})


def _answer(request: Request, watch: Stopwatch) -> LayerState | Prediction:
    """What a request asks for, each part timed."""
    backbone = request.backbone
    if isinstance(request, Encode):
        with watch("encode"):
            return LayerState.of(backbone.encode([request.observation]))
    with watch("llm"):
        trace = forward(backbone, request.state, request.schedule, request.first)
    with watch("head"):
        return read_out(request, trace)


def read_out(request: Predict, trace: ForwardTrace) -> Prediction:
    """What the head makes of the state of ``request``, once its pass is over."""
    predicted = request.backbone.predict(request.state)
    return Prediction(request.backbone.decode_action(predicted)[0], predicted[0], trace)


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
        self.backbone = backbone
        self.schedule = schedule
        self._execute_horizon = execute_horizon

    def reset(self, seed: int = 0) -> None:
        """Forget the past, in the head and in the schedule."""
        self.backbone.reset()
        self.schedule.begin_episode(seed)

    def plan(self, observation: Observation) -> Plan:
        """Encode, run the layers as the schedule says, decode."""
        state: LayerState = yield Encode(self.backbone, observation)
        padding = state.padding
        prediction: Prediction = yield Predict(self.backbone, state, self.schedule)
        self.last = StepReport(
            layers=tuple(prediction.trace.layers_run),
            tokens=tuple(prediction.trace.tokens_without(padding)),
            jumps=tuple(prediction.trace.jumps),
            predicted=prediction.chunk,
        )
        return prediction.chunk.head(self._execute_horizon)


def full_policy(backbone: Backbone, execute_horizon: int) -> SchedulePolicy:
    """Every layer at every step: the upstream model."""
    return SchedulePolicy(backbone, FullSchedule(), execute_horizon)
