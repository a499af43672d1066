"""Many coroutines side by side: what they ask of a backbone, or of simulators, at the same time is done together.

One round lets every waiting simulator work, encodes every waiting observation, and takes every waiting prediction
through the layers, whether it begins at layer 0 or resumes in the middle. A head with a memory remembers one episode:
it predicts for one after the other, and what it remembers is exchanged whenever another coroutine's turn comes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.engine import ForwardTrace, forward_together, stack, stackable
from dyslctl.jobs.simulators import Simulate, simulate_together
from dyslctl.policy import Encode, Predict, Prediction, Request, read_out
from dyslctl.types import ActionChunk, LayerState, Observation

Task = TypeVar("Task")
Result = TypeVar("Result")
Coroutine = Generator[Request | Simulate, Any, Result]
"""Yields requests, is sent their answers (or thrown the error they ended in), and returns a result."""


def run_together(lanes: Sequence[Callable[[Task], Coroutine[Result]]], tasks: Iterable[Task]) -> Iterator[Result]:
    """Run ``tasks`` on ``lanes``, one a lane at a time, and yield the results as they come.

    Args:
        lanes: Each begins the coroutine for a task. What a lane owns, such as a simulator, serves one after another.
        tasks: Taken in order by whichever lane is free.
    """
    queue = iter(tasks)
    seats = [_Seat(map(begin, queue)) for begin in lanes]
    for seat in seats:
        yield from seat.advance(None)
    while any(seat.request is not None for seat in seats):
        for kind, together in _KINDS:
            asking = {seat: seat.request for seat in seats if isinstance(seat.request, kind)}
            for seat, answer in zip(asking, together(list(asking.values())), strict=True):
                yield from seat.advance(answer)


class _Seat(Generic[Result]):
    """A lane at work.

    Attributes:
        request: What its coroutine waits for; ``None`` before the first one, and once no task is left.
    """

    def __init__(self, coroutines: Iterator[Coroutine[Result]]) -> None:
        self._memories = dict[Backbone, object]()  # of heads that have one, as this lane's episode left them
        self._coroutines = coroutines
        self._current = next(coroutines, None)
        self.request: Request | Simulate | None = None

    def advance(self, answer: object) -> Iterator[Result]:
        """Go on with ``answer`` until the next request; the results of the coroutines that end on the way."""
        while self._current is not None:
            try:
                self.request = self._resume(self._current, answer)
            except StopIteration as end:
                yield end.value
                self._current, self.request, answer = next(self._coroutines, None), None, None
            else:
                return

    def _resume(self, coroutine: Coroutine[Result], answer: object) -> Request | Simulate:
        """Go on with ``answer``; while the coroutine runs, heads remember its episode."""
        if isinstance(answer, Prediction) and isinstance(self.request, Predict) and answer.memory is not None:
            self._memories[self.request.backbone] = answer.memory
        for backbone, memory in self._memories.items():
            backbone.restore(memory)
        request = coroutine.throw(answer) if isinstance(answer, Exception) else coroutine.send(answer)
        met = {*self._memories, request.backbone} if isinstance(request, Encode | Predict) else {*self._memories}
        left = {backbone: backbone.snapshot() for backbone in met}
        self._memories = {backbone: memory for backbone, memory in left.items() if memory is not None}
        if isinstance(request, Predict):
            return replace(request, memory=self._memories.get(request.backbone))
        return request


@torch.inference_mode()
def answer_together(requests: Sequence[Encode | Predict]) -> list[object]:
    """The answers to ``requests``, all of one kind, in order; the error in place of those it befell."""
    answers: dict[int, object] = {}
    for backbone in dict.fromkeys(request.backbone for request in requests):
        own = [index for index, request in enumerate(requests) if request.backbone is backbone]
        encodes = [request.observation for index in own if isinstance(request := requests[index], Encode)]
        predicts = [request for index in own if isinstance(request := requests[index], Predict)]
        found = _encode(backbone, encodes) if encodes else _predict(backbone, predicts)
        answers |= zip(own, found, strict=True)
    return [answers[index] for index in range(len(requests))]


def _encode(backbone: Backbone, observations: Sequence[Observation]) -> list[LayerState | Exception]:
    """One state an observation. If a batch fails each is tried alone: the others may be good."""
    try:
        return [*backbone.encode(observations).samples()]
    except Exception as error:
        if len(observations) == 1:
            return [error]
        return [_encode(backbone, [observation])[0] for observation in observations]


def _predict(backbone: Backbone, requests: Sequence[Predict]) -> list[Prediction | Exception]:
    """One prediction a request. An error hits all: schedules have moved on, so nothing can be tried again."""
    states = [request.state for request in requests]
    try:
        traces = forward_together(
            backbone, states, [request.schedule for request in requests], [request.first for request in requests]
        )
        if any(request.memory is not None for request in requests):
            return [_remembering(request, trace) for request, trace in zip(requests, traces, strict=True)]
        decoded = _decode(backbone, states)
    except Exception as error:
        return [error] * len(requests)
    return [Prediction(*row, trace) for row, trace in zip(decoded, traces, strict=True)]


def _remembering(request: Predict, trace: ForwardTrace) -> Prediction:
    """What a head with a memory makes of ``request``, once its state went through the layers."""
    backbone = request.backbone
    backbone.restore(request.memory)
    return replace(read_out(request, trace), memory=backbone.snapshot())


def _decode(backbone: Backbone, states: Sequence[LayerState]) -> list[tuple[ActionChunk, Tensor]]:
    """What the head makes of each state: decoded, and as it said it, ``[N, A]``."""
    rows: dict[int, tuple[ActionChunk, Tensor]] = {}
    for group in stackable(states):
        predicted = backbone.predict(stack([states[index] for index in group]))
        rows |= zip(group, zip(backbone.decode_action(predicted), predicted, strict=True), strict=True)
    return [rows[index] for index in range(len(states))]


_KINDS: Sequence[tuple[Any, Callable[[Sequence[Any]], list[object]]]] = (
    (Simulate, simulate_together),
    (Encode, answer_together),
    (Predict, answer_together),
)
"""The steps of a round: what is asked, and what answers it."""
