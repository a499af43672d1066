"""Where episodes run: in this process, or spread over several.

Worker processes only play; the caller alone writes, so a killed worker cannot damage a file.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from multiprocessing import get_context, parent_process

import torch

from dyslctl.errors import EnvironmentMismatch
from dyslctl.jobs.episodes import EpisodeRecord, run_episode
from dyslctl.policy import Policy
from dyslctl.suite import EpisodeSpec, TaskSuite

Policies = Mapping[str, Callable[[], Policy]]
"""Method name -> how to make its policy."""

Task = tuple[EpisodeSpec, Sequence[str]]
"""An episode and the methods to run on it, in this order."""


def play(suite: TaskSuite, policies: Policies, tasks: Sequence[Task], workers: int) -> Iterator[EpisodeRecord]:
    """The record of each episode and method of ``tasks``, as they finish.

    Raises:
        EnvironmentMismatch: If a worker process dies.
    """
    if not tasks:
        return
    if workers == 1:
        player = Player(suite, policies)
        for task in tasks:
            yield from player.play(task)
    else:
        yield from _play_in_processes(suite, policies, tasks, workers)


class Player:
    """One process's simulator and policies."""

    def __init__(self, suite: TaskSuite, policies: Policies) -> None:
        self.suite = suite
        self.environment = suite.make()
        self.policies = {name: make() for name, make in policies.items()}

    def play(self, task: Task) -> Iterator[EpisodeRecord]:
        """One episode with one method after another."""
        spec, methods = task
        for method in methods:
            record = run_episode(self.environment, self.policies[method], method, spec, self.suite)
            if not record.done:
                # A simulator that crashed may be in any state.
                self.environment.close()
                self.environment = self.suite.make()
            yield record


def _play_in_processes(
    suite: TaskSuite, policies: Policies, tasks: Sequence[Task], workers: int
) -> Iterator[EpisodeRecord]:
    # spawn, not fork: torch and CUDA do not survive a fork.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (suite, policies))
    try:
        for future in as_completed([pool.submit(_play_task, task) for task in tasks]):
            yield from future.result()
    except BrokenProcessPool as error:
        raise EnvironmentMismatch(
            "a worker process died, usually for lack of memory", hint="use fewer --workers and --resume"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_player: Callable[[], Player]
"""Set in each worker process as it starts; makes its player once."""


def _start_worker(suite: TaskSuite, policies: Policies) -> None:
    global _player
    # Made with the first task: an error here would only reach the caller as "a worker died".
    _player = cache(partial(Player, suite, policies))
    torch.set_num_threads(1)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A killed parent cannot stop its workers, and a pool's worker would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _play_task(task: Task) -> list[EpisodeRecord]:
    return list(_player().play(task))
