"""A task suite's scripted expert as a source of recorded episodes."""

from __future__ import annotations

from collections.abc import Callable

from dyslctl.data.source import DemonstrationSource
from dyslctl.suite import Demonstration, Disturb, EpisodeSpec, TaskSuite

EPISODES = 300


class SuiteSource(DemonstrationSource):
    """The expert's episodes from the first initial states of the suite's ``train`` split whose task it can do.

    Args:
        suite: Whose expert acts.
        episodes: How many, tasks in turn.
        disturb: What pushes the robot meanwhile, if anything does.
    """

    def __init__(
        self, suite: TaskSuite, episodes: int = EPISODES, disturb: Callable[[EpisodeSpec], Disturb] | None = None
    ) -> None:
        self.name, self.execute_horizon = suite.name, suite.execute_horizon
        self.max_score = suite.max_score
        self.specs = suite.demonstrated_episodes("train", episodes)
        self._suite, self._disturb = suite, disturb

    def __len__(self) -> int:
        return len(self.specs)

    def episode(self, number: int) -> Demonstration:
        """Let the expert act.

        Raises:
            PluginError: If the suite has no expert, or ``disturb`` is given and its expert cannot be disturbed.
        """
        spec = self.specs[number]
        if self._disturb is None:
            return self._suite.demonstrate(spec)
        return self._suite.demonstrate_disturbed(spec, self._disturb(spec))
