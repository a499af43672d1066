"""A policy around another: it hears what the inner one asks of the backbone, and may change question and answer."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from dyslctl.engine import LayerSchedule
from dyslctl.policy import Plan, Policy, Request
from dyslctl.types import ActionChunk, Observation

Asking = Generator[Request, Any, Any]
"""Yields requests, is sent their answers, and returns the answer that the inner policy gets."""


class Wrapped(Policy):
    """Acts as ``inner`` does. Studies override :meth:`ask`, or :meth:`plan` to note what a step came to."""

    def __init__(self, inner: Policy) -> None:
        self.inner = inner
        self.backbone = inner.backbone

    @property
    def schedule(self) -> LayerSchedule:  # type: ignore[override]
        """That of the inner policy."""
        return self.inner.schedule

    def reset(self, seed: int = 0) -> None:
        """A new episode or instruction begins."""
        self.inner.reset(seed)

    def plan(self, observation: Observation) -> Plan:
        """The inner policy's step, its requests handed through :meth:`ask`."""
        plan, answer = self.inner.plan(observation), None
        while True:
            try:
                request = plan.send(answer)
            except StopIteration as end:
                chunk: ActionChunk = end.value
                self.last = self.inner.last
                return chunk
            answer = yield from self.ask(request)

    def ask(self, request: Request) -> Asking:
        """The answer to one request of the inner policy: here, what the backbone says."""
        return (yield request)
