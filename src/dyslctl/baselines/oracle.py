"""What planned exits could reach at best: a planner that knows each exit's true damage.

It runs the whole model and every exit to find out, and counts only the layers of the exit it takes: a bound to measure
planners against, nothing to deploy.
"""

from __future__ import annotations

from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.dysl.exit_schedule import ExitLadder, ExitSchedule, FixedExit
from dyslctl.dysl.exits import DAMAGE_FLOOR, relative_damage
from dyslctl.engine import FullSchedule, LayerSchedule, forward
from dyslctl.types import LayerState


class OracleExit(ExitSchedule):
    """The cheapest exit whose true log damage is below ``threshold``. For heads without memory."""

    def __init__(self, ladder: ExitLadder, backbone: Backbone, threshold: float, executed: int) -> None:
        """``executed``: leading actions of a chunk that the damage is counted over."""
        super().__init__(ladder)
        self._backbone, self._threshold, self._executed = backbone, threshold, executed

    def choose(self, state: LayerState) -> int:
        """Try the whole model, then the exits in turn."""
        full = self._actions(state, FullSchedule())
        harmless = (layer for layer in self.ladder.exits if self._log_damage(state, layer, full) < self._threshold)
        return next(harmless, self.ladder.num_layers)

    def _log_damage(self, state: LayerState, layer: int, full: Tensor) -> float:
        leave = FixedExit(self.ladder, layer)
        leave.memory = self.memory
        predicted = self._actions(state, leave)
        damage = relative_damage(predicted, full, self._executed, self._backbone.spec.gripper_dim)
        return (damage + DAMAGE_FLOOR).log().item()

    def _actions(self, state: LayerState, schedule: LayerSchedule) -> Tensor:
        """``[1, N, A]`` fp32 of one way through the layers behind ``state``, which stays where it is."""
        tried = state.fork()
        forward(self._backbone, tried, schedule, self.ladder.exits[0])
        return self._backbone.predict(tried).float()
