"""What planned exits could reach at best: a planner that knows each exit's true damage.

It runs the whole model and every exit to find out, and counts only the layers of the exit it takes: a bound to measure
planners against, nothing to deploy.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.dysl.exit_policy import ExitPolicy
from dyslctl.dysl.exit_schedule import ExitLadder, FixedExit, worthwhile
from dyslctl.dysl.exits import DAMAGE_FLOOR, relative_damage
from dyslctl.engine import FullSchedule
from dyslctl.policy import Encode, Plan, Predict, Prediction
from dyslctl.types import LayerState, Observation


class OraclePolicy(ExitPolicy):
    """Leave as :class:`PlannedExit` does, with the true damage for the predicted one.

    A head with memory remembers the prediction that is taken, alone.

    Attributes:
        tolerance: Log of the damage, to the actions that are executed, that is worth as much as all layers.
    """

    def __init__(self, backbone: Backbone, ladder: ExitLadder, tolerance: float, execute_horizon: int) -> None:
        """Arguments as for :class:`ExitPolicy`, with the exits to try in place of a schedule."""
        super().__init__(backbone, FixedExit(ladder, ladder.num_layers), execute_horizon)
        self.tolerance = tolerance

    def plan(self, observation: Observation) -> Plan:
        """Predict with every layer, then through the exits in turn, each going on where the one before left."""
        state: LayerState = yield Encode(self.backbone, observation)
        memory, ladder, head = self.recall(state), self.schedule.ladder, self.backbone.snapshot()
        full: Prediction = yield Predict(self.backbone, state.fork(), FullSchedule())
        tried, first, heads = dict[int, Prediction](), 0, {ladder.num_layers: self.backbone.snapshot()}
        for layer in ladder.exits:
            leave = FixedExit(ladder, layer)
            leave.memory = memory
            self.backbone.restore(head)
            tried[layer] = yield Predict(self.backbone, state, leave, first)
            heads[layer] = self.backbone.snapshot()
            # A fixed exit always jumps, so there is always a state before the jump.
            first, state = layer, cast(LayerState, tried[layer].trace.resume_state)
        damages = [self._log_damage(each.predicted, full.predicted) for each in tried.values()]
        leave_at = worthwhile(damages, self.tolerance, ladder.exits, ladder.num_layers)
        self.backbone.restore(heads[leave_at])
        return self.conclude(tried.get(leave_at, full), range(leave_at))

    def _log_damage(self, predicted: Tensor, full: Tensor) -> float:
        gripper = self.backbone.spec.gripper_dim
        damage = relative_damage(predicted[None].float(), full[None].float(), self._execute_horizon, gripper)
        return (damage + DAMAGE_FLOOR).log().item()
