"""The trained parts (section 3.2): one adapter and one skipping controller before every dynamic layer.

A skip at layer ``i`` replaces layers ``i .. s - 1`` by ``adapter_i``, an estimate of ``h_s`` from ``h_i``, where ``s``
is the next static layer; where skips reach over their own layer alone, ``s = i + 1``. The paper gives no sizes; the
presets reproduce its parameter counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyslctl.backbone import PackLinear
from dyslctl.dysl.partition import LayerPartition, Reach
from dyslctl.errors import ConfigError
from dyslctl.runtime.linear import plain
from dyslctl.types import LayerState, TokenKind

Pool = Literal["query_tokens", "mean", "last", "max"]
QUERY_KINDS = (TokenKind.PROPRIO, TokenKind.TEXT, TokenKind.ACTION)
"""What asks for an action: few tokens, task-bearing, and untouched by visual token pruning. Consecutive numbers."""
PUBLISHED_WIDTH = 1024
"""Backbones this wide or wider get the paper's hyper-parameters, and adapters of its rank."""
KEEP_BIAS = -2.0
"""First bias of a controller's output, a skip probability of 0.12: training starts from the full model."""


@dataclass(frozen=True)
class SkipSizes:
    """Sizes of the skip modules.

    Attributes:
        hidden_size: ``H``.
        adapter_rank: ``r``, inner width of an adapter.
        controller_width: ``h``, inner width of a controller.
        pool: Which tokens a controller reads, and how they become one vector.
    """

    hidden_size: int
    adapter_rank: int
    controller_width: int
    pool: Pool = "query_tokens"

    def __post_init__(self) -> None:
        if min(self.hidden_size, self.adapter_rank, self.controller_width) < 1:
            raise ConfigError(f"skip module sizes must be at least 1, found {self}")

    @classmethod
    def mini(cls, hidden_size: int) -> SkipSizes:
        """For backbones far below a billion parameters: ``r = H / 4``, ``h`` between 16 and 32."""
        return cls(hidden_size, max(hidden_size // 4, 1), min(max(hidden_size // 4, 16), 32))

    def parameters(self, dynamic_layers: int) -> int:
        """Adapter ``2Hr + r + H + 2H``, controller ``2H + Hh + h + h + 1``, for each dynamic layer."""
        size, rank, width = self.hidden_size, self.adapter_rank, self.controller_width
        adapter = 2 * size * rank + rank + size + 2 * size
        controller = 2 * size + size * width + width + width + 1
        return dynamic_layers * (adapter + controller)


@dataclass(frozen=True)
class SkipPreset:
    """Sizes that give a published parameter count with ``dynamic_layers`` dynamic layers."""

    sizes: SkipSizes
    dynamic_layers: int


PRESETS: Mapping[str, SkipPreset] = {
    "dysl_rf3b": SkipPreset(SkipSizes(2048, 160, 32), 19),
    "dysl_oft7b": SkipPreset(SkipSizes(4096, 1024, 72), 26),
    "flexi_rf3b": SkipPreset(SkipSizes(2048, 160, 64), 24),
    "flexi_oft7b": SkipPreset(SkipSizes(4096, 1472, 28), 32),
}
"""14M and 226M for DySL-VLA, 19M and 390M for FlexiDepth, as the paper's tables print them."""


def dysl_sizes(hidden_size: int, method: Literal["dysl", "flexi"] = "dysl") -> SkipSizes:
    """The method's published sizes where ``hidden_size`` is that of a published backbone, else the mini ones."""
    published = [PRESETS[f"{method}_{backbone}"].sizes for backbone in ("rf3b", "oft7b")]
    return next((sizes for sizes in published if sizes.hidden_size == hidden_size), SkipSizes.mini(hidden_size))


class Adapter(nn.Module):
    """``x + scale * (W2 silu(W1 LN(x) + b1) + b2)``, token by token.

    ``W2`` and ``b2`` start at zero, so an untrained adapter is the plain skip. ``scale`` is measured, not trained: the
    RMS of what the skipped layers add, so that the learning rate means the same at every depth.
    """

    scale: Tensor

    def __init__(self, hidden_size: int, rank: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.down = nn.Linear(hidden_size, rank)
        self.up = nn.Linear(rank, hidden_size)
        self.register_buffer("scale", torch.ones(()))
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, H]`` -> ``[B, T, H]``."""
        return torch.addcmul(x, self.scale, self.up(F.silu(self.down(self.norm(x)))))

    @torch.no_grad()
    def bind(self, pack: PackLinear = plain) -> Callable[[Tensor], Tensor]:
        """The same function of the weights as they are now, for inference.

        The norm's affine part is folded into ``W1`` and the scale into ``W2``, and no module is called: a controller
        or an adapter of a small model costs as much Python as arithmetic.

        Args:
            pack: How its matrices are multiplied, ``Backbone.pack`` of the backbone whose layers it stands in for.
        """
        size, down = (self.down.in_features,), pack(*fold(self.norm, self.down))
        up = pack(self.up.weight * self.scale, self.up.bias * self.scale)
        return lambda x: up(F.silu(down(F.layer_norm(x, size)), inplace=True)).add_(x)


class Controller(nn.Module, ABC):
    """What decides whether a layer is skipped: ``sigmoid`` of its logit is the probability."""

    @abstractmethod
    def forward(self, pooled: Tensor) -> Tensor:
        """``[B, H]`` -> logits ``[B]``."""

    @abstractmethod
    def bind(self) -> Callable[[Tensor], Tensor]:
        """The same function of the weights as they are now, for inference; see :meth:`Adapter.bind`."""


class SkippingController(Controller):
    """``logit c = W2 silu(W1 LN(pooled) + b1) + b2``; ``sigmoid`` of it is the probability of skipping."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.down = nn.Linear(hidden_size, width)
        self.out = nn.Linear(width, 1)
        nn.init.constant_(self.out.bias, KEEP_BIAS)

    def forward(self, pooled: Tensor) -> Tensor:
        """``[B, H]`` -> logits ``[B]``."""
        logits: Tensor = self.out(F.silu(self.down(self.norm(pooled))))
        return logits[:, 0]

    @torch.no_grad()
    def bind(self) -> Callable[[Tensor], Tensor]:
        """The same function of the weights as they are now, for inference; see :meth:`Adapter.bind`."""
        size, (weight, bias) = (self.down.in_features,), fold(self.norm, self.down)
        out, out_bias = self.out.weight.clone(), self.out.bias.clone()
        return lambda pooled: F.linear(F.silu(F.linear(F.layer_norm(pooled, size), weight, bias)), out, out_bias)[:, 0]


def fold(norm: nn.LayerNorm, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias that give ``linear(norm(x))`` from ``x`` normalised without affine part."""
    return linear.weight * norm.weight, linear.bias + linear.weight @ norm.bias


class SkipModules(nn.Module):
    """All adapters and controllers of one partition; everything that the two training stages change."""

    def __init__(
        self,
        partition: LayerPartition,
        sizes: SkipSizes,
        *,
        reach: Reach = "segment",
        controller: Callable[[int, int], Controller] = SkippingController,
    ) -> None:
        """One of each for every dynamic layer.

        Args:
            partition: Which layers are dynamic.
            sizes: Of the modules.
            reach: How far a skip goes, and so what an adapter stands in for.
            controller: What decides, made of hidden size and width.
        """
        super().__init__()
        self.partition = partition
        self.sizes = sizes
        self._reach = reach
        layers = [str(layer) for layer in partition.dynamic_layers]
        self.adapters = nn.ModuleDict({i: Adapter(sizes.hidden_size, sizes.adapter_rank) for i in layers})
        self.controllers = nn.ModuleDict({i: controller(sizes.hidden_size, sizes.controller_width) for i in layers})

    def landing(self, layer: int) -> int:
        """Where a skip at dynamic ``layer`` goes on."""
        return self.partition.landing(layer, self._reach)

    def adapter(self, layer: int) -> Adapter:
        """The adapter that a skip at dynamic ``layer`` goes through."""
        return cast(Adapter, self.adapters[str(layer)])

    def controller(self, layer: int) -> Controller:
        """The controller that is asked before dynamic ``layer``."""
        return cast(Controller, self.controllers[str(layer)])


class TokenPool:
    """Turns ``[B, T, H]`` into the ``[B, H]`` a controller reads. Prepared once for the tokens, used at every layer.

    Means are a product with fixed weights: one small kernel a controller, and no wait for the device. It reads
    from the first of its tokens to the last: what asks stands together, and reading all would cost more than deciding.
    """

    def __init__(self, members: Tensor, *, use_max: bool = False, dtype: torch.dtype = torch.float32) -> None:
        """``members``: ``[B, T]`` bool, the tokens to read; ``dtype`` of the hidden state."""
        read = members.any(0).nonzero()[:, 0].tolist() or [0]
        self._span = slice(read[0], read[-1] + 1)
        members = members[:, self._span]
        self._every = not use_max and bool(members.all())
        self._outside = ~members[..., None] if use_max else None
        self._weights = (members / members.sum(1, keepdim=True).clamp_min(1)).to(dtype)[:, None]

    @classmethod
    def of(cls, pool: Pool, state: LayerState) -> TokenPool:
        """The pool over the tokens that ``state`` holds now."""
        members = torch.ones_like(state.kinds, dtype=torch.bool) if state.mask is None else state.mask
        if pool == "query_tokens":
            members = members & (state.kinds >= min(QUERY_KINDS)) & (state.kinds <= max(QUERY_KINDS))
        elif pool == "last":
            members = members & (members.cumsum(1) == members.sum(1, keepdim=True))
        return cls(members, use_max=pool == "max", dtype=state.hidden.dtype)

    def __call__(self, hidden: Tensor) -> Tensor:
        """``[B, T, H]`` -> ``[B, H]``, in the same dtype."""
        hidden = hidden[:, self._span]
        if self._every:
            return hidden.mean(1)
        if self._outside is not None:
            return hidden.masked_fill(self._outside, -torch.inf).amax(1)
        return torch.bmm(self._weights, hidden).squeeze(1)
