"""The agent loop of exits, on one screen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.dysl.exit_schedule import ExitSchedule
from dyslctl.dysl.plan_memory import PlanMemory
from dyslctl.errors import ConfigError
from dyslctl.policy import Encode, Plan, Policy, Predict, Prediction, StepReport
from dyslctl.types import ActionChunk, LayerState, Observation


@dataclass(frozen=True)
class ExitSettings:
    """When to leave.

    Attributes:
        tolerance: Log of the damage that is worth as much as all layers (``exit_schedule.worthwhile``).

    Raises:
        ConfigError: If it is no number.
    """

    tolerance: float

    def __post_init__(self) -> None:
        if math.isnan(self.tolerance):
            raise ConfigError("tolerance: expected a number, found nan")


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
        self.schedule.memory, padding = self.recall(state), state.padding
        prediction: Prediction = yield Predict(self.backbone, state, self.schedule)
        trace = prediction.trace
        return self.conclude(prediction, trace.layers_run, trace.tokens_without(padding))

    def recall(self, state: LayerState) -> Tensor:
        """``[1, P]``, the last chunk in the dtype and on the device of ``state``; zeros where an episode begins."""
        self._memory = self._memory or PlanMemory(self.schedule.ladder.sizes.memory, state.hidden)
        return self._memory.value

    def conclude(self, prediction: Prediction, layers: Iterable[int], tokens: Iterable[int] = ()) -> ActionChunk:
        """Remember the chunk, report the executed ``layers`` and their tokens, and return the actions to execute."""
        if self._memory is not None and self.schedule.ladder.sizes.remembers:
            self._memory.commit(prediction.chunk.normalized)
        self.last = StepReport(
            layers=tuple(layers),
            tokens=tuple(tokens),
            jumps=tuple(prediction.trace.jumps),
            consulted=tuple(self.schedule.consulted),
            predicted=prediction.chunk,
        )
        return prediction.chunk.head(self._execute_horizon)
