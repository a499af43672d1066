"""DySL's forward pass (section 3.2): static layers run, dynamic layers past their allow point may be jumped over."""

from __future__ import annotations

import math
from typing import Protocol

from dyslctl.backbone import PackLinear
from dyslctl.dysl.guidance import SkippingAllowPoints
from dyslctl.dysl.query_layout import same_tokens
from dyslctl.dysl.skip_modules import SkipModules, TokenPool
from dyslctl.engine import RUN, Jump, LayerSchedule, Step
from dyslctl.policy import Consultation
from dyslctl.runtime.linear import plain
from dyslctl.types import LayerState


class Thresholds(Protocol):
    """What the schedule needs to know of the settings."""

    def threshold(self, layer: int) -> float:
        """The skip probability above which ``layer`` is skipped."""


class DySLSchedule(LayerSchedule):
    """One skip at most per segment: a jump lands on the next static layer; after a "no" the next controller is asked.

    Batch size 1: the decision is for the whole sequence.

    Attributes:
        num_layers: ``L``.
        consulted: The last inference's decisions.
    """

    def __init__(
        self,
        modules: SkipModules,
        settings: Thresholds,
        allow_points: SkippingAllowPoints | None = None,
        pack: PackLinear = plain,
    ) -> None:
        """Bind the modules as they are now.

        Args:
            modules: Adapters and controllers.
            settings: Thresholds.
            allow_points: As they stand when a layer is reached; ``None`` lets every controller decide.
            pack: How the adapters' matrices are multiplied. A controller's see one vector: nothing to gain.
        """
        partition = modules.partition
        self.num_layers = partition.num_layers
        self._pool_mode = modules.sizes.pool
        self._allow_points = allow_points
        self._tau = {layer: settings.threshold(layer) for layer in partition.dynamic_layers}
        self._jumps = {
            layer: Jump(modules.landing(layer), modules.adapter(layer).bind(pack)) for layer in partition.dynamic_layers
        }
        self._controllers = {layer: modules.controller(layer).bind() for layer in partition.dynamic_layers}
        self._pool: tuple[LayerState, TokenPool] | None = None
        self.consulted: list[Consultation] = []

    def start(self, state: LayerState) -> None:
        """A new inference: nobody consulted."""
        self.consulted = []

    def before(self, layer: int, state: LayerState) -> Step:
        """Run, or jump to the next static layer if the controller's probability exceeds ``tau``."""
        jump = self._jumps.get(layer)
        if jump is None or not (self._allow_points is None or self._allow_points.allows(layer)):
            return RUN
        probability = self._skip_probability(layer, state)
        self.consulted.append(Consultation(layer, probability))
        return jump if probability > self._tau[layer] else RUN

    def _skip_probability(self, layer: int, state: LayerState) -> float:
        """The one place where the device is waited for, unless the tokens changed."""
        logit = self._controllers[layer](self._pool_of(state)(state.hidden)).item()
        return 1 / (1 + math.exp(-max(logit, -700.0)))

    def _pool_of(self, state: LayerState) -> TokenPool:
        """That of the last layer or the last inference, where the tokens are the same."""
        last = self._pool
        if last is not None and last[0].kinds is state.kinds and last[0].mask is state.mask:
            return last[1]
        same = last is not None and same_tokens(state, last[0])
        pool = last[1] if last is not None and same else TokenPool.of(self._pool_mode, state)
        self._pool = (state.fork(), pool)
        return pool
