"""The agent loop of exits, on one screen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dyslctl.backbone import Backbone
from dyslctl.dysl.exit_schedule import ExitSchedule
from dyslctl.dysl.plan_memory import PlanMemory
from dyslctl.errors import ConfigError
from dyslctl.policy import Encode, Plan, Policy, Predict, Prediction, StepReport
from dyslctl.types import LayerState, Observation


@dataclass(frozen=True)
class ExitSettings:
    """When to leave.

    Attributes:
        threshold: The first exit whose predicted log damage is below it is taken.

    Raises:
        ConfigError: If it is no number.
    """

    threshold: float

    def __post_init__(self) -> None:
        if math.isnan(self.threshold):
            raise ConfigError("threshold: expected a number, found nan")


class ExitPolicy(Policy):
    """Leave where the schedule says, and remember the whole chunk for the next inference."""

    schedule: ExitSchedule

    def __init__(self, backbone: Backbone, schedule: ExitSchedule, execute_horizon: int) -> None:
        """Put trained exits to work.

        Args:
            backbone: The frozen model.
            schedule: How an exit is chosen.
            execute_horizon: Actions of a chunk that are executed before the next inference; exits trained with
                another number remember chunks that lie elsewhere in time.
        """
        self.backbone = backbone
        self.schedule = schedule
        self._execute_horizon = execute_horizon
        self._memory: PlanMemory | None = None

    def reset(self, seed: int = 0) -> None:
        """Forget the past: the head's memory and the last chunk."""
        self.backbone.reset()
        self.schedule.begin_episode(seed)
        self._memory = None

    def plan(self, observation: Observation) -> Plan:
        """Predict through the chosen exit."""
        state: LayerState = yield Encode(self.backbone, observation)
        memory = self._memory = self._memory or PlanMemory(self.schedule.ladder.sizes.memory, state.hidden)
        self.schedule.memory = memory.value
        prediction: Prediction = yield Predict(self.backbone, state, self.schedule)
        if self.schedule.ladder.sizes.remembers:
            memory.commit(prediction.chunk.normalized)
        self.last = StepReport(
            layers=tuple(prediction.trace.layers_run),
            jumps=tuple(prediction.trace.jumps),
            consulted=tuple(self.schedule.consulted),
            predicted=prediction.chunk,
        )
        return prediction.chunk.head(self._execute_horizon)
