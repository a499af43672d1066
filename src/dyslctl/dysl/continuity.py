"""Action continuity (section 3.3, Eq. 1): how smoothly the robot has been moving.

    C_t = -(1/k) sum_{j=t-k+1..t} |A_j - A_{j-1}|_2        C <= 0, larger is smoother, defined from t = k on
    delta C_t = C_t - C_{t-1}                              defined from t = k + 1 on

The sum telescopes, ``delta C_t = (|A_{t-k} - A_{t-k-1}| - |A_t - A_{t-1}|) / k``, so only the newest difference and the
one that leaves the window matter, and a spike counts once when it comes and once, reversed, ``k`` steps later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dyslctl.errors import ConfigError


@dataclass(frozen=True)
class Continuity:
    """Eq. 1 for each action of a chunk; ``None`` while undefined.

    Attributes:
        values: ``C_t`` of each action.
        deltas: ``delta C_t`` of each action.
    """

    values: tuple[float | None, ...]
    deltas: tuple[float | None, ...]


def action_weights(
    action_dim: int,
    gripper_dim: int | None,
    gripper_weight: float = 1.0,
    std: Sequence[float] | None = None,
) -> np.ndarray:
    """What each action dimension counts for in ``|A_j - A_{j-1}|``: ``[A]``.

    Args:
        action_dim: ``A``.
        gripper_dim: Index of the gripper, or ``None``.
        gripper_weight: 1 counts it as the paper does (a flip then adds ``2/k`` to ``-C``), 0 leaves it out.
        std: ``[A]``, standard deviation of ``A_j - A_{j-1}`` to divide by; ``None`` for no scaling.

    Raises:
        ConfigError: If ``std`` has another length or a value that is not positive.
    """
    weights = np.ones(action_dim)
    if std is not None:
        if len(std) != action_dim or min(std) <= 0:
            raise ConfigError(f"continuity scale: expected {action_dim} positive values, found {list(std)}")
        weights /= np.asarray(std)
    if gripper_dim is not None:
        weights[gripper_dim] *= gripper_weight
    return weights


class ContinuityTracker:
    """Eq. 1 over the actions of one episode. ``preview`` looks ahead, ``commit`` makes it history."""

    def __init__(self, k: int, weights: np.ndarray | None = None) -> None:
        """``k``: actions in the window. ``weights``: ``[A]``, see :func:`action_weights`; ``None`` for all ones."""
        self._k = k
        self._weights = weights
        self.reset()

    def reset(self) -> None:
        """A new episode: no history."""
        self._last_action: np.ndarray | None = None
        self._norms: list[float] = []

    def preview(self, actions: np.ndarray) -> Continuity:
        """What Eq. 1 would say if ``actions`` ``[n, A]`` (normalised, about to be executed) came next."""
        return self._measure(self._norms, self._new_norms(actions), len(actions))

    def commit(self, actions: np.ndarray) -> Continuity:
        """``actions`` ``[n, A]`` are executed."""
        new = self._new_norms(actions)
        measured = self._measure(self._norms, new, len(actions))
        self._last_action = np.array(actions[-1], dtype=np.float64)
        self._norms = (self._norms + new)[-self._k :]
        return measured

    def _new_norms(self, actions: np.ndarray) -> list[float]:
        """``|A_j - A_{j-1}|`` for each action that has a predecessor."""
        moves = np.asarray(actions, dtype=np.float64)
        if self._last_action is not None:
            moves = np.concatenate([self._last_action[None], moves])
        differences = moves[1:] - moves[:-1]
        if self._weights is not None:
            differences *= self._weights
        norms: list[float] = np.sqrt(np.einsum("ij,ij->i", differences, differences)).tolist()
        return norms

    def _measure(self, old: list[float], new: list[float], count: int) -> Continuity:
        k, norms, first = self._k, old + new, len(old) + len(new) - count
        values: list[float | None] = []
        deltas: list[float | None] = []
        for t in range(first, first + count):
            values.append(-sum(norms[t - k + 1 : t + 1]) / k if t >= k - 1 else None)
            deltas.append((norms[t - k] - norms[t]) / k if t >= k else None)
        return Continuity(tuple(values), tuple(deltas))
