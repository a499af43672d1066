"""Simulators that are asked for much at a time, in this process or in several others.

An episode asks its simulator to begin, and then to execute chunk after chunk. Those of episodes that run side by side
are asked together, so that simulators in other processes all work at once, while one process keeps the model and
computes its inferences in batches.
"""

from __future__ import annotations

import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
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
                f"a simulator's process {self.child.end(grace=1.0)}",
                hint="use fewer --workers if memory is short; --resume keeps what was trained",
            ) from None
        if isinstance(found, Exception):
            raise found
        return found


@contextmanager
def simulators(suite: TaskSuite, count: int, processes: int = 1) -> Iterator[list[Environment]]:
    """``count`` simulators of ``suite``, spread over so many ``processes``; with one, they are in this process."""
    with ExitStack() as stack:
        if processes == 1:
            yield [stack.enter_context(closing(suite.make())) for _ in range(count)]
        else:
            children = [stack.enter_context(Child(_serve, suite)) for _ in range(min(processes, count))]
            yield [RemoteSimulator(children[number % len(children)], number) for number in range(count)]


def simulate_together(requests: Sequence[Simulate]) -> list[object]:
    """The answers to ``requests``, in order; the error in place of those it befell.

    A process is asked for the next thing when it has answered the last: no pipe is ever full on both sides.
    """
    answers = dict[int, object]()
    waiting = defaultdict[Child, deque[tuple[int, RemoteSimulator, Simulate]]](deque)
    for index, request in enumerate(requests):
        if isinstance(request.environment, RemoteSimulator):
            waiting[request.environment.child].append((index, request.environment, request))
    for queue in waiting.values():
        _ask_first(queue)
    for index, request in enumerate(requests):
        if not isinstance(request.environment, RemoteSimulator):
            answers[index] = _caught(request.here)
    while waiting:
        for child in _spoken(list(waiting)):
            index, simulator, _ = waiting[child].popleft()
            answers[index] = _caught(simulator.answer)
            if waiting[child]:
                _ask_first(waiting[child])
            else:
                del waiting[child]
    return [answers[index] for index in range(len(requests))]


def _ask_first(queue: deque[tuple[int, RemoteSimulator, Simulate]]) -> None:
    _, simulator, request = queue[0]
    simulator.ask(request)


def _spoken(children: Sequence[Child]) -> list[Child]:
    """Those that have something to say, as soon as any has."""
    ready = wait([child.pipe for child in children])
    return [child for child in children if child.pipe in ready]


def _caught(answer: Callable[[], object]) -> object:
    try:
        return answer()
    except Exception as error:
        return error


def _serve(pipe: Connection[Any, Any], suite: TaskSuite) -> None:
    """What a process of simulators does; each is made when it is first asked."""
    environments = defaultdict[int, Environment](suite.make)
    try:
        for number, asked in messages(pipe):
            kind = Begin if isinstance(asked, EpisodeSpec) else Execute
            try:
                answer = _painted(kind(environments[number], asked).here())
            except Exception as error:
                answer = portable(error, f"in a simulator's process:\n{traceback.format_exc()}")
            pipe.send(answer)
    finally:
        for environment in environments.values():
            environment.close()


def _painted(answer: Any) -> Any:
    """Pictures that are painted when looked at cannot be sent."""
    if isinstance(answer, Observation):
        return answer.painted()
    result, executed = answer
    return replace(result, observation=result.observation.painted()), executed
