"""Simulators that are asked for much at a time, in this process or in several others.

An episode asks its simulator to begin, and then to execute chunk after chunk. Those of episodes that run side by side
are asked together, so that simulators in other processes all work at once, while one process keeps the model and
computes its inferences in batches.
"""

from __future__ import annotations

import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from dyslctl.errors import EnvironmentMismatch, PluginError
from dyslctl.jobs.processes import Child, messages, portable
from dyslctl.suite import Environment, EpisodeSpec, StepResult, TaskSuite
from dyslctl.types import Observation


@dataclass(frozen=True)
class Begin:
    """Begin the episode ``spec``. The answer is the first :class:`Observation`."""

    environment: Environment
    spec: EpisodeSpec

    def here(self) -> Observation:
        """The answer of an environment in this process."""
        return self.environment.reset(self.spec)


@dataclass(frozen=True)
class Execute:
    """Execute ``actions`` ``[n, A]``, up to the end of the instruction: what came of the last, and how many were."""

    environment: Environment
    actions: np.ndarray

    def here(self) -> tuple[StepResult, int]:
        """The answer of an environment in this process."""
        results: list[StepResult] = []
        for action in self.actions:
            results.append(self.environment.step(action))
            if results[-1].done or results[-1].new_instruction:
                break
        return results[-1], len(results)


Simulate = Begin | Execute


class RemoteSimulator(Environment):
    """A simulator in another process, which may hold several and knows this one by ``number``."""

    def __init__(self, child: Child, number: int) -> None:
        self.child, self._number = child, number

    def reset(self, spec: EpisodeSpec) -> Observation:
        """See :class:`Environment`."""
        self.ask(Begin(self, spec))
        observation: Observation = self.answer()
        return observation

    def step(self, action: np.ndarray) -> StepResult:
        """See :class:`Environment`."""
        self.ask(Execute(self, action[None]))
        found: tuple[StepResult, int] = self.answer()
        return found[0]

    def render(self) -> np.ndarray:
        """Whoever films has the simulator in its own process.

        Raises:
            PluginError: Always.
        """
        raise PluginError("a simulator in another process shows no pictures for people")

    def ask(self, request: Simulate) -> None:
        """Begin to work on a request for this simulator, whose :meth:`answer` is received later."""
        with suppress(OSError):  # If the process died meanwhile, the answer says so.
            self.child.pipe.send((self._number, request.spec if isinstance(request, Begin) else request.actions))

    def answer(self) -> Any:
        """To the request that was asked first.

        Raises:
            EnvironmentMismatch: If the process died.
            Exception: What went wrong in it.
        """
        try:
            found = self.child.pipe.recv()
        except (EOFError, OSError):
            raise EnvironmentMismatch(
                f"a simulator's process {self.child.end(grace=1.0)}", hint="--workers 1 keeps simulators in one process"
            ) from None
        if isinstance(found, Exception):
            raise found
        return found


@contextmanager
def simulators(suite: TaskSuite, count: int, processes: int = 1) -> Iterator[list[Environment]]:
    """``count`` simulators of ``suite``, spread over so many ``processes``; with one, they are in this process."""
    if processes == 1:
        here = [suite.make() for _ in range(count)]
        try:
            yield here
        finally:
            for environment in here:
                environment.close()
        return
    children = [Child(_serve, suite) for _ in range(min(processes, count))]
    try:
        yield [RemoteSimulator(children[number % len(children)], number) for number in range(count)]
    finally:
        for child in children:
            child.pipe.close()
        for child in children:
            child.end()


def simulate_together(requests: Sequence[Simulate]) -> list[object]:
    """The answers to ``requests``, in order; the error in place of those it befell.

    A process is asked for the next thing when it has answered the last: no pipe is ever full on both sides.
    """
    answers, waiting = dict[int, object](), defaultdict[Child, deque[int]](deque)
    for index, request in enumerate(requests):
        if isinstance(request.environment, RemoteSimulator):
            waiting[request.environment.child].append(index)
    for queue in waiting.values():
        _ask(requests[queue[0]])
    for index, request in enumerate(requests):
        if not isinstance(request.environment, RemoteSimulator):
            answers[index] = _caught(request.here)
    by_pipe = {child.pipe: queue for child, queue in waiting.items()}
    while by_pipe:
        for pipe in wait(list(by_pipe)):
            queue = by_pipe[pipe]  # type: ignore[index]
            index = queue.popleft()
            answers[index] = _caught(requests[index].environment.answer)  # type: ignore[attr-defined]
            if queue:
                _ask(requests[queue[0]])
            else:
                del by_pipe[pipe]  # type: ignore[arg-type]
    return [answers[index] for index in range(len(requests))]


def _ask(request: Simulate) -> None:
    assert isinstance(request.environment, RemoteSimulator)
    request.environment.ask(request)


def _caught(answer: Callable[[], object]) -> object:
    try:
        return answer()
    except Exception as error:
        return error


def _serve(pipe: Connection[Any, Any], suite: TaskSuite) -> None:
    """What a process of simulators does; each is made when it is first asked."""
    environments = defaultdict[int, Environment](suite.make)
    for number, asked in messages(pipe):
        try:
            kind = Begin if isinstance(asked, EpisodeSpec) else Execute
            pipe.send(_painted(kind(environments[number], asked).here()))
        except Exception as error:
            pipe.send(portable(error, f"in a simulator's process:\n{traceback.format_exc()}"))


def _painted(answer: Any) -> Any:
    """Pictures that are painted when looked at cannot be sent."""
    if isinstance(answer, Observation):
        return answer.painted()
    result, executed = answer
    return replace(result, observation=result.observation.painted()), executed
