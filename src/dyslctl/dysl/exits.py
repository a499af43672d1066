"""Exits: adapters before the layers of the tail that hand the state straight to the head, and one planner.

Leaving at exit ``e`` runs layers ``0 .. e - 1``; ``adapter_e`` then maps ``h_e`` to an estimate of ``h_L``, which the
head reads. The head needs few tokens, so vision tokens stay behind. Where the first exit stands, the planner predicts
for every exit at once how much leaving there would change the action. Both are told the last predicted chunk
(:mod:`dyslctl.dysl.plan_memory`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyslctl.backbone import BackboneSpec, PackLinear
from dyslctl.dysl.partition import LayerPartition
from dyslctl.dysl.plan_memory import memory_size
from dyslctl.dysl.query_layout import POOLED
from dyslctl.dysl.skip_modules import PUBLISHED_WIDTH, fold
from dyslctl.errors import ConfigError
from dyslctl.runtime.linear import plain

MOTION_FLOOR = 0.05
"""Added to the motion that damage is relative to: a robot that stands still has little to lose, not infinitely much."""
RECALL_STD = 0.2
"""Initial weights of the memory: a chunk's entries are below one, and the hidden unit's input should feel them."""
DAMAGE_FLOOR = 0.002
"""Added before the logarithm that the planner learns: below it, differences between exits are rounding."""


@dataclass(frozen=True)
class ExitSizes:
    """Sizes of the exits' modules.

    Attributes:
        hidden_size: ``H``.
        chunk_length: ``N``.
        action_dim: ``A``.
        adapter_rank: ``r``, inner width of an adapter.
        planner_width: Inner width of the planner.
        remembers: Whether the last chunk is told; otherwise the memory stays empty.
    """

    hidden_size: int
    chunk_length: int
    action_dim: int
    adapter_rank: int
    planner_width: int = 128
    remembers: bool = True

    def __post_init__(self) -> None:
        if min(self.hidden_size, self.chunk_length, self.action_dim, self.adapter_rank, self.planner_width) < 1:
            raise ConfigError(f"sizes of exits must be at least 1, found {self}")

    @classmethod
    def of(
        cls,
        spec: BackboneSpec,
        adapter_rank: int | None = None,
        planner_width: int | None = None,
        *,
        remembers: bool = True,
    ) -> ExitSizes:
        """Those for a backbone, at the default widths unless others are given.

        Raises:
            ConfigError: If its head generates tokens: exits learn from hidden states alone, which is not all it reads.
        """
        if spec.generates:
            raise ConfigError(
                "exits need a head that reads hidden states alone, but this backbone generates its actions token by "
                "token, each one through the layers",
                hint="--method dysl-paper",
            )
        size, rank = spec.hidden_size, adapter_rank or default_rank(spec.hidden_size)
        return cls(size, spec.chunk_length, spec.action_dim, rank, planner_width or cls.planner_width, remembers)

    @property
    def memory(self) -> int:
        """``P``."""
        return memory_size(self.chunk_length, self.action_dim)


def default_rank(hidden_size: int) -> int:
    """``H / 4`` as in the paper, but ``H`` where that is still small: a wide adapter stands in better."""
    return hidden_size // 4 if hidden_size >= PUBLISHED_WIDTH else hidden_size


def default_exits(partition: LayerPartition) -> tuple[int, ...]:
    """The dynamic layers in the first two thirds of the model, at least one: a later exit saves little."""
    dynamic = partition.dynamic_layers
    return tuple(layer for layer in dynamic if 3 * layer <= 2 * partition.num_layers) or dynamic[:1]


class ExitAdapter(nn.Module):
    """``x + scale * (W2 silu(W1 LN(x) + b1 + V_n m) + b2)``, token by token; ``m`` is the memory.

    ``V_n`` belongs to the action ``n`` of the chunk that the token speaks for. ``W2`` and ``b2`` start at zero, so an
    untrained adapter is the plain exit; ``scale`` is measured, as that of :class:`dyslctl.dysl.skip_modules.Adapter`.
    """

    scale: Tensor

    def __init__(self, sizes: ExitSizes) -> None:
        super().__init__()
        size, rank = sizes.hidden_size, sizes.adapter_rank
        self.norm = nn.LayerNorm(size)
        self.down = nn.Linear(size, rank)
        self.recall = nn.Linear(sizes.memory, sizes.chunk_length * rank, bias=False)
        self.up = nn.Linear(rank, size)
        self.register_buffer("scale", torch.ones(()))
        nn.init.normal_(self.recall.weight, std=RECALL_STD)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, memory: Tensor, slots: Tensor) -> Tensor:
        """``x`` ``[B, K, H]``, ``memory`` ``[B, P]``, ``slots`` ``[B, K]`` int64 -> ``[B, K, H]``."""
        inner = self.down(self.norm(x)) + _by_slot(self.recall(memory), slots, self.down.out_features)
        return torch.addcmul(x, self.scale, self.up(F.silu(inner)))

    @torch.no_grad()
    def bind(self, pack: PackLinear = plain) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The same function of the weights as they are now, for inference; see ``skip_modules.Adapter.bind``."""
        size, rank, down = (self.down.in_features,), self.down.out_features, pack(*fold(self.norm, self.down))
        recall, up = self.recall.weight.clone(), pack(self.up.weight * self.scale, self.up.bias * self.scale)

        def adapt(x: Tensor, memory: Tensor, slots: Tensor) -> Tensor:
            inner = down(F.layer_norm(x, size)).add_(_by_slot(F.linear(memory, recall), slots, rank))
            return up(F.silu(inner, inplace=True)).add_(x)

        return adapt


def _by_slot(recalled: Tensor, slots: Tensor, rank: int) -> Tensor:
    """Each token's share of ``recalled`` ``[B, N r]``: ``[B, K, r]``."""
    by_action = recalled.view(len(recalled), -1, rank)
    return by_action.gather(1, slots[..., None].expand(-1, -1, rank))


class ExitPlanner(nn.Module):
    """``W2 silu(W1 LN(features) + b1) + b2``: the log of the relative damage that each exit would do."""

    def __init__(self, sizes: ExitSizes, exits: int) -> None:
        super().__init__()
        features = POOLED * sizes.hidden_size + sizes.memory
        self.norm = nn.LayerNorm(features)
        self.down = nn.Linear(features, sizes.planner_width)
        self.out = nn.Linear(sizes.planner_width, exits)

    def forward(self, features: Tensor) -> Tensor:
        """``[B, 3 H + P]`` of :meth:`QueryLayout.features` -> ``[B, E]``, one an exit, ascending."""
        damages: Tensor = self.out(F.silu(self.down(self.norm(features))))
        return damages

    @torch.no_grad()
    def bind(self) -> Callable[[Tensor], Tensor]:
        """The same function of the weights as they are now, for inference; see :meth:`ExitAdapter.bind`."""
        size, (weight, bias) = (self.down.in_features,), fold(self.norm, self.down)
        out, out_bias = self.out.weight.clone(), self.out.bias.clone()
        return lambda x: F.linear(F.silu(F.linear(F.layer_norm(x, size), weight, bias)), out, out_bias)


class ExitModules(nn.Module):
    """One adapter an exit, and the planner.

    Attributes:
        partition: Prefix and tail (:func:`dyslctl.dysl.partition.tail`).
        exits: Ascending dynamic layers of it.

    Raises:
        ConfigError: If there is no exit, or one is not a dynamic layer, or out of order.
    """

    def __init__(self, partition: LayerPartition, exits: Sequence[int], sizes: ExitSizes) -> None:
        super().__init__()
        if not exits or list(exits) != [layer for layer in partition.dynamic_layers if layer in exits]:
            known = list(partition.dynamic_layers)
            raise ConfigError(f"exits must be some of the layers {known}, ascending, found {list(exits)}")
        self.partition, self.exits, self.sizes = partition, tuple(exits), sizes
        self.adapters = nn.ModuleDict({str(exit_): ExitAdapter(sizes) for exit_ in exits})
        self.planner = ExitPlanner(sizes, len(exits))

    def adapter(self, layer: int) -> ExitAdapter:
        """The adapter of the exit before ``layer``."""
        return cast(ExitAdapter, self.adapters[str(layer)])


def relative_damage(predicted: Tensor, full: Tensor, executed: int, gripper_dim: int | None) -> Tensor:
    """How much worse ``predicted`` is than what it stands for, as a share of the motion: ``[B]``.

        d = mean |A - A_full| / (mean |A_full| over the pose + 0.05)        both over the executed actions

    Args:
        predicted: ``[B, N, A]`` of an exit, normalised.
        full: ``[B, N, A]`` of the full model.
        executed: Leading actions that are executed before the next inference.
        gripper_dim: The action dimension that is no motion, or ``None``.
    """
    pose = [dim for dim in range(full.shape[-1]) if dim != gripper_dim]
    error = (predicted - full)[:, :executed].abs().mean((1, 2))
    motion = full[:, :executed, pose].abs().mean((1, 2))
    return error / (motion + MOTION_FLOOR)
