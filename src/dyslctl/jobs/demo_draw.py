"""Which initial states the expert shows, so that each task has its share of solved episodes.

A failed state makes room for the next one of its task. So the states that are tried are a beginning of the task's list,
up to the one that fills its share: the same ones in whatever order, and in however many sessions, they were played.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from dyslctl.errors import PluginError
from dyslctl.suite import EpisodeSpec, Split, TaskSuite

TRIES = 5
"""Initial states tried for each demonstration that a task is to have, before its expert counts as unable."""


class Draw:
    """The initial states of ``split`` that become ``episodes`` demonstrations, tasks in turn.

    Args:
        suite: Whose expert acts.
        split: Which initial states.
        episodes: Demonstrations in all.

    Raises:
        PluginError: If the suite has no expert.
    """

    def __init__(self, suite: TaskSuite, split: Split, episodes: int) -> None:
        specs = suite.demonstrated_episodes(split, episodes)
        self._suite, self._split = suite, split
        self.shares = {task: sum(spec.task == task for spec in specs) for task in suite.demonstrated_tasks}

    def missing(self, solved: Mapping[int, bool]) -> list[EpisodeSpec]:
        """The states to try next, task by task.

        Args:
            solved: Index of each state that was tried -> did the expert solve it?

        Raises:
            PluginError: If the expert fails too often at a task.
        """
        return [spec for task in self.shares for spec in self._beginning(task, solved) if spec.index not in solved]

    def tried(self, solved: Mapping[int, bool]) -> list[EpisodeSpec]:
        """Those of the tried states that this draw asks for: all of them, unless it had asked for more before."""
        return [spec for task in self.shares for spec in self._beginning(task, solved) if spec.index in solved]

    def kept(self, solved: Mapping[int, bool]) -> list[int]:
        """The indices of the solved states, ascending."""
        return sorted(spec.index for spec in self.tried(solved) if solved[spec.index])

    def _beginning(self, task: str, solved: Mapping[int, bool]) -> list[EpisodeSpec]:
        """The states of ``task`` up to where its share would be full if all that are not known were solved."""
        share, found = self.shares[task], list[EpisodeSpec]()
        while (wanting := share - sum(solved.get(spec.index, True) for spec in found)) > 0:
            tried, found = found, self._states(task, len(found) + wanting)
            if len(tried) >= TRIES * share or len(found) == len(tried):  # enough, or all there are
                self._give_up(task, [solved[spec.index] for spec in tried if spec.index in solved])
        return found

    def _give_up(self, task: str, known: Sequence[bool]) -> NoReturn:
        share = self.shares[task]
        raise PluginError(
            f"{self._suite.name}: the expert solved {sum(known)} of {len(known)} initial states of {task}",
            hint=f"--episodes asks for {share} of this task; ask for fewer, or mend the expert",
        )

    def _states(self, task: str, count: int) -> list[EpisodeSpec]:
        rounds = self._suite.episodes(self._split, count * len(self._suite.tasks))
        return [spec for spec in rounds if spec.task == task][:count]
