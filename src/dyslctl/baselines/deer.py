"""DeeR-VLA (Yue et al., arXiv 2411.02359), ported to a frozen backbone: leave when two exits agree on the action.

Exits stand before every second layer of the tail. At each of them an action is predicted; if it differs little enough
from the one of the exit before, the pass ends there. The first exit is never left: it is there to be compared with.

    delta_k = RMS over executed actions and pose of A_k - A_{k-1};  leave at exit k iff delta_k <= T_k

The thresholds ``T`` are solved from held-out data for a budget: a share ``p_k ~ rho^k`` of the inferences is to leave
at the ``k``-th place, the whole model being the last, and ``rho`` is found by bisection.

Where this differs from the public code:

* Backbone and head stay frozen. DeeR trains cross-attention and a head for each exit; here an adapter before the frozen
  head makes each exit's action (:mod:`dyslctl.dysl.exits`, without memory), trained as those of ``static``.
* The number of samples that leave by place ``k`` is rounded, not that of each place, so that budgets are met closely.
  Where all that are left shall leave, the threshold is infinite.
* Nothing grows from inference to inference: a head with memory is brought back before each further prediction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.dysl.exit_policy import ExitPolicy
from dyslctl.dysl.exit_schedule import ExitLadder, FixedExit
from dyslctl.engine import FullSchedule, LayerSchedule
from dyslctl.policy import Consultation, Encode, Plan, Predict, Prediction
from dyslctl.types import LayerState, Observation

INTERVAL = 2
"""Layers between two exits."""
STEEPEST = 40.0
"""Largest ``|log rho|``: beyond it all inferences leave at one place."""
HALVINGS = 50


def differences(predicted: Tensor, executed: int, gripper_dim: int | None) -> Tensor:
    """How far each exit's action is from that of the exit before: ``[E - 1, ...]``.

    Args:
        predicted: ``[E, ..., N, A]`` normalised, one an exit, ascending.
        executed: Leading actions that are executed before the next inference.
        gripper_dim: The action dimension that is not compared, or ``None``.
    """
    pose = [dim for dim in range(predicted.shape[-1]) if dim != gripper_dim]
    apart = (predicted[1:] - predicted[:-1])[..., :executed, :][..., pose]
    return apart.float().square().mean((-2, -1)).sqrt()


def shares(log_ratio: float, places: int) -> np.ndarray:
    """``p_k ~ rho^k``, ``[places]``; the last place is the whole model."""
    powers = log_ratio * np.arange(places)
    weights = np.exp(powers - powers.max())
    return np.asarray(weights / weights.sum())


def solve_thresholds(deltas: np.ndarray, wanted: np.ndarray) -> list[float]:
    """The thresholds with which a share ``wanted[k]`` of the samples leaves at place ``k``.

    Place by place, of the samples that are left those with the smallest difference leave.

    Args:
        deltas: ``[n, K]``, the difference at each place that can be left early.
        wanted: ``[K + 1]``, summing to one; what is left runs the whole model.

    Returns:
        ``K`` thresholds: ``-inf`` where nobody shall leave, ``inf`` where all that are left shall.
    """
    left, found = np.ones(len(deltas), bool), []
    by_now = np.rint(np.cumsum(wanted)[:-1] * len(deltas)).astype(int)
    for place, target in enumerate(by_now):
        here = np.sort(deltas[left, place])
        count = target - (len(deltas) - len(here))
        if count <= 0:
            found.append(-math.inf)
        else:
            found.append(math.inf if count >= len(here) else float(here[count - 1]))
        left &= deltas[:, place] > found[-1]
    return found


def mean_layers(deltas: np.ndarray, thresholds: Sequence[float], exits: Sequence[int], num_layers: int) -> float:
    """Mean executed layers of the samples ``deltas`` ``[n, K]``; ``exits`` are the layers of the ``K`` places."""
    leaves = np.column_stack([deltas <= np.array(thresholds), np.ones(len(deltas), bool)])
    return float(np.array([*exits, num_layers])[leaves.argmax(1)].mean())


def thresholds_for(deltas: np.ndarray, exits: Sequence[int], num_layers: int, layers: float) -> list[float]:
    """The thresholds whose mean layers on ``deltas`` come nearest to ``layers``, by bisection on ``log rho``.

    A budget below the first place that can be left, or above the whole model, gives the nearest end.
    """

    def at(log_ratio: float) -> list[float]:
        return solve_thresholds(deltas, shares(log_ratio, len(exits) + 1))

    low, high = -STEEPEST, STEEPEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        more = mean_layers(deltas, at(middle), exits, num_layers) > layers
        low, high = (low, middle) if more else (middle, high)
    return min(map(at, (low, high)), key=lambda found: abs(mean_layers(deltas, found, exits, num_layers) - layers))


class ConsistencyPolicy(ExitPolicy):
    """Try the exits in turn, each going on where the one before left, until two agree."""

    def __init__(
        self, backbone: Backbone, ladder: ExitLadder, thresholds: Sequence[float], execute_horizon: int
    ) -> None:
        """``thresholds``: one for each exit but the first; other arguments as for :class:`ExitPolicy`."""
        super().__init__(backbone, FixedExit(ladder, ladder.num_layers), execute_horizon)
        self.thresholds = tuple(thresholds)

    def plan(self, observation: Observation) -> Plan:
        """One prediction an exit; a head with memory remembers the last of them alone."""
        state: LayerState = yield Encode(self.backbone, observation)
        memory, head, padding = self.recall(state), self.backbone.snapshot(), state.padding
        first, layers, tokens, predicted = 0, list[int](), list[int](), list[Tensor]()
        self.schedule.start(state)
        for schedule in self._attempts(memory):
            self.backbone.restore(head)
            found: Prediction = yield Predict(self.backbone, state, schedule, first)
            layers += found.trace.layers_run
            tokens += found.trace.tokens_without(padding)
            resume, predicted = found.trace.resume_state, [*predicted[-1:], found.predicted]
            if resume is None or self._agree(found.trace.jumps[0][0], predicted):
                break
            first, state = found.trace.jumps[0][0], resume
        return self.conclude(found, layers, tokens)

    def _attempts(self, memory: Tensor) -> Iterator[LayerSchedule]:
        """Through each exit, at last to the end."""
        for layer in self.schedule.ladder.exits:
            leave = FixedExit(self.schedule.ladder, layer)
            leave.memory = memory
            yield leave
        yield FullSchedule()

    def _agree(self, layer: int, predicted: Sequence[Tensor]) -> bool:
        """Whether the exit before ``layer`` may be left, after its action and the one of the exit before it."""
        if len(predicted) < 2:
            return False
        delta = differences(torch.stack(list(predicted)), self._execute_horizon, self.backbone.spec.gripper_dim).item()
        self.schedule.consulted.append(Consultation(layer, delta))
        return delta <= self.thresholds[self.schedule.ladder.exits.index(layer) - 1]
