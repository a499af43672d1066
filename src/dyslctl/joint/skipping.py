"""A method that skips layers, seen from the tokens: what always runs, what alarms it, how it is cautious."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

from dyslctl.dysl.exit_policy import ExitPolicy
from dyslctl.dysl.exit_schedule import PlannedExit
from dyslctl.dysl.guidance import Signal
from dyslctl.dysl.policy import DySLPolicy
from dyslctl.policy import Policy, StepReport

Judged = Callable[[bool], bool | None]
"""From whether this inference is alarming to whether it is to be cautious; ``None``: as the method itself sees fit."""
CAUTION = math.log(2)
"""A cautious planner accepts half the damage."""


class Skipping(ABC):
    """One skipping method's policy, seen from the tokens.

    Attributes:
        policy: Its own loop; it keeps its own past.
        static: The layers that run whatever is decided, ascending.
        contiguous: A pass runs every layer up to the one before which it leaves.
        window: How many inferences an alarm lasts.
    """

    policy: Policy
    static: Sequence[int]
    contiguous: bool = False
    window: int = 1

    @abstractmethod
    def alarmed(self, report: StepReport) -> bool:
        """Whether an inference was important in its eyes."""

    @abstractmethod
    def heed(self, judged: Judged) -> None:
        """Skip, in the next inference, as ``judged`` says."""


class PlannedExits(Skipping):
    """``dysl``: alarmed if no exit is worth it by its own tolerance, cautious by half of that."""

    contiguous = True

    def __init__(self, policy: ExitPolicy, schedule: PlannedExit) -> None:
        """``schedule`` is the policy's."""
        self.policy, self._schedule, self._tolerance = policy, schedule, schedule.tolerance
        ladder = schedule.ladder
        leaves = self._tolerance > -math.inf
        self.static = range(ladder.exits[0] if leaves else ladder.num_layers)

    def alarmed(self, report: StepReport) -> bool:
        """The planner was asked, and no exit is worth it by the tolerance itself: caution does not feed itself."""
        return bool(report.consulted) and self._schedule.worthwhile(self._tolerance) == self._schedule.ladder.num_layers

    def heed(self, judged: Judged) -> None:
        """Accept less damage. Whether this inference alarms it, only its end will tell."""
        self._schedule.tolerance = self._tolerance - CAUTION if judged(False) else self._tolerance


class Controllers(Skipping):
    """``dysl-paper``: alarmed by a fall of continuity, for as long as its window; cautious by its allow points."""

    def __init__(self, policy: DySLPolicy, num_layers: int, dynamic: Sequence[int], execute_horizon: int) -> None:
        """``dynamic``: the layers that have a controller."""
        self.policy, self._guidance = policy, policy.guidance
        settings = policy.guidance.settings
        skipped = {layer for layer in dynamic if settings.threshold(layer) < 1}
        self.static = [layer for layer in range(num_layers) if layer not in skipped]
        self.window = math.ceil(settings.k / execute_horizon)

    def alarmed(self, report: StepReport) -> bool:
        """``delta C`` fell below ``eta_1``."""
        return report.delta_continuity is not None and report.delta_continuity < self._guidance.settings.eta_1

    def heed(self, judged: Judged) -> None:
        """Let the points take what is important for a fall, and what is not for none; a fall alarms at once."""
        eta_1 = self._guidance.settings.eta_1

        def heeded(signal: Signal) -> Signal:
            cautious = judged(signal.fall < eta_1)
            if cautious is None:
                return signal
            fall = min(signal.fall, 2 * eta_1) if cautious else max(signal.fall, eta_1)
            return replace(signal, fall=fall)

        self._guidance.heed = heeded
