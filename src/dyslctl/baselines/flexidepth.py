"""FlexiDepth (Luo et al., arXiv 2503.23798), as the DySL-VLA paper compares with it: layers are skipped one at a time.

A router and an adapter stand before every layer. There is no static layer, no allow point and no second prediction, and
all is trained in one stage: each layer's two ways are mixed by the router (Eq. 5 with ``s = i + 1``, every layer at
once), and the loss is the task's with a price on the square of the layers that run.

Where this differs from the published method:

* One decision for the whole sequence, from pooled tokens, so that whole layers are saved. FlexiDepth decides token by
  token: :mod:`dyslctl.baselines.flexidepth_tokens`.
* A layer that runs is not multiplied by its gate at inference: with every layer kept this is the upstream model, bit
  for bit. In training, too, a router takes one of the two ways, straight-through; ``hard=False`` mixes them softly.
* All layers have a router, not the latter half of them, and the adapter is that of :mod:`dyslctl.dysl.skip_modules`.
* The last layer runs where no other did: a head that generates needs the keys and values of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyslctl.backbone import Backbone
from dyslctl.dysl.partition import LayerPartition
from dyslctl.dysl.schedule import DySLSchedule
from dyslctl.dysl.skip_modules import KEEP_BIAS, Controller, SkipModules, SkipSizes, fold
from dyslctl.engine import RUN, Step
from dyslctl.policy import Plan, SchedulePolicy
from dyslctl.types import LayerState, Observation

MIN_ROUTER_WIDTH = 16
"""Inner width of a router where ``H / 16`` would be less."""


def router_width(hidden_size: int) -> int:
    """``H / 16``, as published, but not below :data:`MIN_ROUTER_WIDTH`."""
    return max(hidden_size // 16, MIN_ROUTER_WIDTH)


class Router(Controller):
    """``logit c = w LN(tanh(W LN(pooled) + b1)) + b2``; ``c`` is the probability of skipping, the gate ``g = 1 - c``.

    The published router ends in a projection up to ``H`` and a row of weights. With nothing between them the two are
    one row, ``w``.
    """

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.down = nn.Linear(hidden_size, width)
        self.inner_norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 1)
        nn.init.constant_(self.out.bias, KEEP_BIAS)

    def forward(self, pooled: Tensor) -> Tensor:
        """``[B, H]`` -> logits ``[B]``; token by token, ``[B, T, H]`` -> ``[B, T]``."""
        logits: Tensor = self.out(self.inner_norm(torch.tanh(self.down(self.norm(pooled)))))
        return logits[..., 0]

    @torch.no_grad()
    def bind(self) -> Callable[[Tensor], Tensor]:
        """The same function of the weights as they are now, for inference; see ``skip_modules.Adapter.bind``."""
        size, width = (self.down.in_features,), (self.down.out_features,)
        (weight, bias), (out, out_bias) = fold(self.norm, self.down), fold(self.inner_norm, self.out)

        def route(pooled: Tensor) -> Tensor:
            inner = torch.tanh(F.linear(F.layer_norm(pooled, size), weight, bias))
            return F.linear(F.layer_norm(inner, width), out, out_bias)[..., 0]

        return route


def flexidepth_modules(num_layers: int, sizes: SkipSizes) -> SkipModules:
    """Router and adapter before every layer; ``sizes.controller_width`` is the router's."""
    return SkipModules(LayerPartition(num_layers, ()), sizes, reach="layer", controller=Router)


def squared_layers(gates: Mapping[int, Tensor], partition: LayerPartition) -> Tensor:
    """``L_skip = mean (sum_l g_l)^2`` with ``g = 1 - c``: the more layers an inference, or a token, runs, the dearer.

    Args:
        gates: ``c`` by layer: ``[B]``, or ``[B, T]`` where each token decides, all of them real.
        partition: Unread: no layer is static.
    """
    kept = torch.stack([1 - c for c in gates.values()]).sum(0)
    return kept.square().mean()


@dataclass(frozen=True)
class CommonThreshold:
    """Every router skips above the same probability.

    Attributes:
        tau: It.
    """

    tau: float

    def threshold(self, layer: int) -> float:
        """``tau``, whatever the layer."""
        return self.tau


class RoutedSchedule(DySLSchedule):
    """A router before every layer, and one layer at least."""

    def start(self, state: LayerState) -> None:
        """A new inference: nothing ran."""
        super().start(state)
        self._ran = False

    def before(self, layer: int, state: LayerState) -> Step:
        """As the router says, but for the last layer where none ran."""
        last = not self._ran and layer == self.num_layers - 1
        return RUN if last else super().before(layer, state)

    def after(self, layer: int, state: LayerState) -> None:
        """One ran."""
        self._ran = True


class FlexiDepthPolicy(SchedulePolicy):
    """Before each layer its router is asked; a layer that is skipped is not executed, its adapter is."""

    schedule: RoutedSchedule

    def __init__(self, backbone: Backbone, modules: SkipModules, tau: float, execute_horizon: int) -> None:
        """Put trained routers to work.

        Args:
            backbone: The frozen model.
            modules: Of :func:`flexidepth_modules`, on the same device and in the same dtype.
            tau: The skip probability above which a layer is skipped.
            execute_horizon: Actions of a chunk that are executed before the next inference.
        """
        super().__init__(backbone, RoutedSchedule(modules, CommonThreshold(tau), pack=backbone.pack), execute_horizon)

    def plan(self, observation: Observation) -> Plan:
        """As any schedule, with what the routers answered in the report."""
        chunk = yield from super().plan(observation)
        self.last = replace(self.last, consulted=tuple(self.schedule.consulted))
        return chunk
