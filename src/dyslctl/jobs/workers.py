"""Where episodes run: in this process, one at a time or side by side, or spread over several processes.

Worker processes only play; the caller alone writes, so a killed worker cannot damage a file.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from multiprocessing import get_context, parent_process

import torch

from dyslctl.errors import EnvironmentMismatch
from dyslctl.jobs.episodes import EpisodeRecord, episode
from dyslctl.jobs.lockstep import Coroutine, run_together
from dyslctl.policy import Policy
from dyslctl.suite import Environment, EpisodeSpec, TaskSuite

Policies = Mapping[str, Callable[[], Policy]]
"""Method name -> how to make its policy."""

Task = tuple[EpisodeSpec, str]
"""An episode and the method to run on it."""

PIECE = 4
"""Tasks that a worker process fetches at a time, for each of its lanes; the last of a piece run in a smaller batch."""


def play(
    suite: TaskSuite, policies: Policies, tasks: Sequence[Task], workers: int, batch: int
) -> Iterator[EpisodeRecord]:
    """The record of each of ``tasks``, as they finish.

    Raises:
        ConfigError: If ``batch`` is more than 1 and a head has a memory.
        EnvironmentMismatch: If a worker process dies.
    """
    if not tasks:
        return
    if workers == 1:
        yield from Player(suite, policies, batch).play(tasks)
    else:
        size = 1 if batch == 1 else min(PIECE * batch, math.ceil(len(tasks) / workers))
        pieces = [tasks[first : first + size] for first in range(0, len(tasks), size)]
        yield from _play_in_processes(partial(Player, suite, policies, batch), pieces, workers)


class Player:
    """One process's episodes: ``batch`` of them side by side, or one at a time, timed."""

    def __init__(self, suite: TaskSuite, policies: Policies, batch: int = 1) -> None:
        originals = {name: make() for name, make in policies.items()}
        twins = [{name: policy.twin() for name, policy in originals.items()} for _ in range(batch - 1)]
        self._lanes = [_Lane(suite, own, alone=batch == 1) for own in (originals, *twins)]

    def play(self, tasks: Sequence[Task]) -> Iterator[EpisodeRecord]:
        """The record of each task, as they finish."""
        return run_together([lane.play for lane in self._lanes], tasks)


class _Lane:
    """A simulator, and a policy of each method."""

    def __init__(self, suite: TaskSuite, policies: Mapping[str, Policy], *, alone: bool) -> None:
        self._suite, self._policies, self._alone = suite, policies, alone
        self._environment: Environment | None = None

    def play(self, task: Task) -> Coroutine[EpisodeRecord]:
        """One episode with one method."""
        spec, method = task
        environment = self._environment = self._environment or self._suite.make()
        record = yield from episode(environment, self._policies[method], method, spec, self._suite, alone=self._alone)
        if not record.done:
            # A simulator that crashed may be in any state.
            environment.close()
            self._environment = None
        return record


def _play_in_processes(
    make_player: Callable[[], Player], pieces: Sequence[Sequence[Task]], workers: int
) -> Iterator[EpisodeRecord]:
    # spawn, not fork: torch and CUDA do not survive a fork.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (make_player,))
    try:
        for future in as_completed([pool.submit(_play_piece, piece) for piece in pieces]):
            yield from future.result()
    except BrokenProcessPool as error:
        raise EnvironmentMismatch(
            "a worker process died, usually for lack of memory", hint="use fewer --workers and --resume"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_player: Callable[[], Player]
"""Set in each worker process as it starts; makes its player once."""


def _start_worker(make_player: Callable[[], Player]) -> None:
    global _player
    # Made with the first task: an error here would only reach the caller as "a worker died".
    _player = cache(make_player)
    torch.set_num_threads(1)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A killed parent cannot stop its workers, and a pool's worker would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _play_piece(tasks: Sequence[Task]) -> list[EpisodeRecord]:
    return list(_player().play(tasks))
