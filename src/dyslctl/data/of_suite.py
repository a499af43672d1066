"""A task suite's scripted expert as a source of recorded episodes."""

from __future__ import annotations

from dyslctl.data.source import DemonstrationSource
from dyslctl.suite import Demonstration, TaskSuite

EPISODES = 300


class SuiteSource(DemonstrationSource):
    """The expert's episodes from the first initial states of the suite's ``train`` split whose task it can do."""

    def __init__(self, suite: TaskSuite, episodes: int = EPISODES) -> None:
        self.name, self.execute_horizon = suite.name, suite.execute_horizon
        self._suite, self._specs = suite, suite.demonstrated_episodes("train", episodes)

    def __len__(self) -> int:
        return len(self._specs)

    def episode(self, number: int) -> Demonstration:
        """Let the expert act.

        Raises:
            PluginError: If the suite has no expert.
        """
        return self._suite.demonstrate(self._specs[number])
