"""RoboFlamingo's head: a maximum over the tokens, an LSTM over time, one MLP for the pose and one for the gripper.

At inference the released code knows two ways. Up to ``window`` steps the LSTM's state is carried on; from then on it
begins at zero in every step and goes over the last ``window`` features again. So the 13th action is not what carrying
on would have given, and the state after the 12th is never used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from dyslctl.errors import ConfigError
from dyslctl_roboflamingo.config import Head

POSE, GRIPPER = 6, 1


@dataclass(frozen=True)
class HeadMemory:
    """What the head knows of the steps before. Replaced at each step and never changed, so it is its own copy.

    Where gradients are asked for they go back through it, to the steps before.

    Attributes:
        features: ``[B, H]`` each, the last ones, oldest first; at most ``window``.
        carried: The LSTM's state; ``None`` before the first step, and once the window is full.
    """

    features: tuple[Tensor, ...] = ()
    carried: tuple[Tensor, Tensor] | None = None


class ActionMLP(nn.Module):
    """Linear layers with ReLU between them, then what bounds the output."""

    def __init__(self, widths: Sequence[int], bound: nn.Module) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inner, outer in pairwise(widths):
            layers += [nn.Linear(inner, outer), nn.ReLU()]
        self.mlp = nn.Sequential(*layers[:-1], bound)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, width]`` -> ``[B, A]``."""
        out: Tensor = self.mlp(x)
        return out


class RecurrentHead(nn.Module):
    """One action from this step's tokens and the memory of the steps before."""

    def __init__(self, features: int, config: Head) -> None:
        super().__init__()
        self.window = config.window
        # Its dropout between the layers exists in training alone, and this head is frozen.
        self.rnn = nn.LSTM(features, config.width, config.layers, batch_first=True)
        self.actions = ActionMLP((config.width, *config.mlp, POSE), nn.Tanh())
        self.gripper = ActionMLP((config.width, *config.mlp, GRIPPER), nn.Sigmoid())

    def forward(self, feature: Tensor, memory: HeadMemory) -> tuple[Tensor, HeadMemory]:
        """One step.

        Args:
            feature: ``[B, H]``, this step's.
            memory: Of the steps before.

        Returns:
            ``[B, 7]``: the pose in (-1, 1) and the probability that the gripper opens; and what to remember now.

        Raises:
            ConfigError: If another number of samples is remembered.
        """
        past = memory.features
        if past and len(past[0]) != len(feature):
            raise ConfigError(
                f"the head remembers {len(past[0])} episodes side by side, and is given {len(feature)}",
                hint="Backbone.reset() comes before the first step of an episode",
            )
        kept = (*past, feature)[-self.window :]
        if len(past) < self.window:
            out, (hidden, cell) = self._recur(feature[:, None], memory.carried)
            memory = HeadMemory(kept, (hidden, cell))
        else:
            out, _ = self._recur(torch.stack([*past[1:], feature], 1), None)
            memory = HeadMemory(kept)
        return self._act(out[:, -1]), memory

    def after(self, feature: Tensor, history: Tensor) -> Tensor:
        """One step of samples that each have a past of their own, which stays as it is.

        Args:
            feature: ``[B, H]``; the only part with a gradient.
            history: ``[B, Q]`` as :meth:`history` lays it out.

        Returns:
            ``[B, 7]``, as of :meth:`forward`.
        """
        states = history.to(feature.dtype).view(len(feature), 2, self.rnn.num_layers, self.rnn.hidden_size)
        hidden, cell = states.permute(1, 2, 0, 3).contiguous()
        out, _ = self._recur(feature[:, None], (hidden, cell))
        return self._act(out[:, -1])

    @torch.no_grad()
    def history(self, memory: HeadMemory) -> Tensor:
        """``[Q]`` float32: the LSTM's hidden and cell state, layer by layer, that the next step will begin with.

        Once the window is full that step goes over the last ``window - 1`` features and its own: the state is the one
        behind the former. So whoever learns from a history needs one step of the LSTM, not ``window``.
        """
        past, state = memory.features, memory.carried
        if len(past) == self.window:
            state = self._recur(torch.stack(past[1:], 1), None)[1] if past[1:] else None
        if state is None:
            return torch.zeros(2 * self.rnn.num_layers * self.rnn.hidden_size)
        return torch.stack(state)[:, :, 0].float().cpu().flatten()

    def _act(self, last: Tensor) -> Tensor:
        return torch.cat([self.actions(last), self.gripper(last)], -1)

    def _recur(self, features: Tensor, carried: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        # cuDNN has no gradient for an LSTM in eval mode; without a gradient it stays on.
        with torch.backends.cudnn.flags(enabled=not features.requires_grad):
            out: tuple[Tensor, tuple[Tensor, Tensor]] = self.rnn(features, carried)
        return out


def pooled(hidden: Tensor, real: Tensor) -> Tensor:
    """Maximum over the tokens, ``[B, T, H]`` -> ``[B, H]``; ``real`` ``[B, T]`` bool are those that count."""
    lowest = torch.finfo(hidden.dtype).min
    return hidden.masked_fill(~real[..., None], lowest).amax(1)
