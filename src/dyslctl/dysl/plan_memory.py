"""What the robot meant to do: the last predicted chunk, as the exits and the planner read it.

A chunk is longer than what is executed of it, so the last one says how the motion would go on, and its executed part
says how it went so far. Layers that an early exit skips had worked that out once; an exit that is handed the last chunk
need not work it out again, only correct it. This is the paper's premise, that consecutive actions belong together, put
to use before an action is predicted and not only after.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dyslctl.types import LayerState, TokenKind


def memory_size(chunk_length: int, action_dim: int) -> int:
    """``P = N A + 1``: a whole chunk, and whether there is one."""
    return chunk_length * action_dim + 1


def remember(chunk: np.ndarray | None, size: int) -> np.ndarray:
    """``[P]`` float32: ``chunk`` ``[N, A]`` (normalised, gripper as executed) and 1; zeros if there is none yet."""
    memory = np.zeros(size, np.float32)
    if chunk is not None:
        memory[:-1] = chunk.reshape(-1)
        memory[-1] = 1.0
    return memory


class PlanMemory:
    """The memory of one episode, ``[1, P]`` on the model's device and in its dtype."""

    def __init__(self, size: int, like: Tensor) -> None:
        """``like``: any tensor with the device and the dtype to use."""
        self._size, self._device, self._dtype = size, like.device, like.dtype
        self.reset()

    def reset(self) -> None:
        """A new episode or instruction begins: nothing was meant yet."""
        self.commit(None)

    def commit(self, chunk: np.ndarray | None) -> None:
        """``chunk`` ``[N, A]`` was predicted, executed or not."""
        self.value = torch.from_numpy(remember(chunk, self._size))[None].to(self._device, self._dtype)


def action_slots(state: LayerState, slots: int) -> Tensor:
    """Which action of a chunk each token speaks for: ``[B, T]`` int64 in ``0 .. slots - 1``.

    Counts the action tokens up to a token: a head that reads one token early finds the first action in the token before
    the first of them. All other tokens before belong to the first action; without action tokens all do.
    """
    action = state.kinds == TokenKind.ACTION
    per_slot = (action.sum(1, keepdim=True) // slots).clamp_min(1)
    return (action.cumsum(1) // per_slot).clamp_max(slots - 1)
