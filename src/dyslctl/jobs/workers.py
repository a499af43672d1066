"""Where episodes run: in this process, one at a time or side by side, or spread over several processes.

Worker processes only play; the caller alone writes results, so a killed worker cannot damage them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial

import torch

from dyslctl.devices.host import usable_cpus
from dyslctl.errors import ConfigError, DyslctlError
from dyslctl.jobs.crew import Died
from dyslctl.jobs.episodes import EpisodeRecord, episode
from dyslctl.jobs.executor import LOCAL, Executor
from dyslctl.jobs.lockstep import Coroutine, run_together
from dyslctl.jobs.video import Filming, filmed_episode
from dyslctl.policy import Policy
from dyslctl.suite import Environment, EpisodeSpec, TaskSuite

Policies = Mapping[str, Callable[[], Policy]]
"""Method name -> how to make its policy."""

Task = tuple[EpisodeSpec, str]
"""An episode and the method to run on it."""

ATTEMPTS = 2
"""Of an episode that ends in an exception, the second in a fresh simulator."""


@dataclass(frozen=True)
class Placement:
    """Where episodes run.

    Attributes:
        workers: Processes. With one and no ``timeout`` it is this process, and a simulator that takes its process with
            it ends everything.
        batch: Episodes side by side in each of them.
        timeout: Seconds an episode may take, the start of its simulator included; then it counts as crashed.
        executor: Where the processes are.

    Raises:
        ConfigError: If ``timeout`` is not positive.
    """

    workers: int = 1
    batch: int = 1
    timeout: float | None = None
    executor: Executor = LOCAL

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout > 0:
            raise ConfigError(f"--episode-timeout: expected seconds above 0, found {self.timeout:g}")

    @property
    def here(self) -> bool:
        """In this process; but to be stopped, an episode needs another one."""
        return self.workers == 1 and self.timeout is None and self.executor.kind == "local"


HERE = Placement()
"""This process, one episode at a time."""


def play(
    suite: TaskSuite, policies: Policies, tasks: Sequence[Task], place: Placement = HERE, filming: Filming | None = None
) -> Generator[EpisodeRecord]:
    """The record of each of ``tasks``, as they finish.

    Raises:
        EnvironmentMismatch: If worker processes die as they start.
    """
    if not tasks:
        return
    if place.here:
        with closing(Player(suite, policies, place.batch, filming)) as player:
            for _, record in player(tasks):
                yield record
        return
    make_player = partial(_player_of_a_worker, suite, policies, place, filming)
    played = place.executor.spread(make_player, tasks, place.workers, lanes=place.batch, timeout=place.timeout)
    with closing(played):
        for (spec, method), outcome in played:
            if isinstance(outcome, Died):
                yield EpisodeRecord.crash(spec, method, f"the worker process {outcome.how}")
            else:
                yield outcome


def _player_of_a_worker(suite: TaskSuite, policies: Policies, place: Placement, filming: Filming | None) -> Player:
    torch.set_num_threads(1 if place.workers > 1 else min(torch.get_num_threads(), usable_cpus()))
    return Player(suite, policies, place.batch, filming)


class Player:
    """One process's episodes: ``batch`` of them side by side, or one at a time, timed."""

    def __init__(self, suite: TaskSuite, policies: Policies, batch: int = 1, filming: Filming | None = None) -> None:
        originals = {name: make() for name, make in policies.items()}
        twins = [{name: policy.twin() for name, policy in originals.items()} for _ in range(batch - 1)]
        self._lanes = [_Lane(suite, own, filming, alone=batch == 1) for own in (originals, *twins)]

    def __call__(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, EpisodeRecord]]:
        """Each task with its record, as they finish."""
        return run_together([lane.play for lane in self._lanes], tasks)

    def close(self) -> None:
        """Free the simulators."""
        for lane in self._lanes:
            lane.close()


class _Lane:
    """A simulator, and a policy of each method."""

    def __init__(
        self, suite: TaskSuite, policies: Mapping[str, Policy], filming: Filming | None, *, alone: bool
    ) -> None:
        self._suite, self._policies, self._filming, self._alone = suite, policies, filming, alone
        self._environment: Environment | None = None

    def play(self, task: Task) -> Coroutine[tuple[Task, EpisodeRecord]]:
        """One episode with one method."""
        record = yield from self._attempt(*task)
        for _ in range(ATTEMPTS - 1):
            if not record.done:
                record = yield from self._attempt(*task)
        return task, record

    def _attempt(self, spec: EpisodeSpec, method: str) -> Coroutine[EpisodeRecord]:
        try:
            self._environment = self._environment or self._suite.make()
        except DyslctlError:  # it says itself what to do
            raise
        except Exception as error:
            return EpisodeRecord.crash(spec, method, f"no simulator: {type(error).__name__}: {error}")
        stage = self._environment, self._policies[method], method, spec, self._suite
        if self._filming is not None and self._filming.wants(spec):
            record = yield from filmed_episode(self._filming, *stage, alone=self._alone)
        else:
            record = yield from episode(*stage, alone=self._alone)
        if not record.done:
            # A simulator that crashed may be in any state.
            self.close()
        return record

    def close(self) -> None:
        """Free the simulator."""
        if self._environment is not None:
            with suppress(Exception):  # What crashed may do so again.
                self._environment.close()
        self._environment = None
