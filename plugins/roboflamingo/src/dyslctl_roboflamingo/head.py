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
from torch.nn.utils.rnn import pack_padded_sequence

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

        Carrying the state on from zero is going over all features from zero, so both ways to act are one here.

        Args:
            feature: ``[B, H]``; the only part with a gradient.
            history: ``[B, Q]`` as :meth:`history` lays it out.

        Returns:
            ``[B, 7]``, as of :meth:`forward`.
        """
        lengths, history = history[:, 0].long(), history.to(feature.dtype)
        past = history[:, 1:].view(len(feature), self.window - 1, -1)
        place = lengths[:, None, None].expand(-1, -1, feature.shape[-1])
        features = torch.cat([past, torch.zeros_like(feature)[:, None]], 1).scatter(1, place, feature[:, None])
        packed = pack_padded_sequence(features, lengths.cpu() + 1, batch_first=True, enforce_sorted=False)
        with torch.backends.cudnn.flags(enabled=not feature.requires_grad):
            _, (hidden, _) = self.rnn(packed)
        return self._act(hidden[-1])

    def history(self, memory: HeadMemory) -> Tensor:
        """``[Q]`` float32: how many features there are, then those of the last ``window - 1`` steps, oldest first."""
        size = self.rnn.input_size
        last = memory.features[-(self.window - 1) :] if self.window > 1 else ()
        row = torch.zeros(1 + (self.window - 1) * size)
        if last:
            row[0] = len(last)
            row[1 : 1 + len(last) * size] = torch.cat(last).float().cpu().flatten()
        return row

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
