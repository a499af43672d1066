"""FlexiDepth with the granularity that is published (Luo et al., arXiv 2503.23798): each token skips by itself.

    runs     h_t <- layer(h)_t      asks with its query, goes through the MLP
    skips    h_t <- adapter(h_t)    its key and value are still made, so that the others attend to it

So a layer that some tokens skip costs keys and values of all tokens, and queries, attention and MLP of those that run.
It counts as executed (``layers_run``) if any token runs it, and ``tokens`` says how many did; a layer that no token
runs is not executed, and not even its keys and values are made.

Where this differs from the published method:

* A token that runs is not multiplied by its gate at inference: with every token kept this is the upstream model, bit
  for bit. In training, too, each token takes one of the two ways; ``hard=False`` mixes them softly.
* All layers have a router, not the latter half of them. Modules, penalty and training are those of
  :mod:`dyslctl.baselines.flexidepth`.
* Heads that generate tokens are refused: what such a token goes through is decided by what came before it
  (``LayerState.past``), for all of them alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from dyslctl.backbone import Backbone, one_token
from dyslctl.dysl.distillation import MixSchedule
from dyslctl.dysl.skip_modules import SkipModules
from dyslctl.engine import RUN, Jump, LayerSchedule, Run, Step
from dyslctl.errors import ConfigError
from dyslctl.policy import Consultation, Plan, SchedulePolicy
from dyslctl.types import LayerState, Observation


class TokenMix(MixSchedule):
    """Eq. 5 for every token by itself: ``gates`` collects ``c`` ``[B, T]`` by layer. No token is padding."""

    def reader(self, state: LayerState) -> Callable[[Tensor], Tensor]:
        """Routers read ``[B, T, H]`` as it is.

        Raises:
            ValueError: If there is padding, which would have a say in what is learnt.
        """
        if state.mask is not None:
            raise ValueError("expected a batch without padding to learn from (jobs/dataset.py), found a mask")
        return lambda hidden: hidden


def require_token_skips(backbone: Backbone) -> None:
    """Try whether a layer of ``backbone`` can run for some tokens alone.

    Raises:
        ConfigError: If it cannot, or the head generates tokens of its own.
    """
    if backbone.spec.generates:
        raise ConfigError(
            f"tokens are to choose their layers one by one, and those that the head of {type(backbone).__name__} "
            "generates all go through the same ones",
            hint="--method flexidepth chooses for all tokens at once",
        )
    state = one_token(backbone)
    with torch.no_grad():
        backbone.run_layer_beside(0, state, backbone.keys_values(0, state.fork()))


class TokenRouting(LayerSchedule):
    """Before each layer its router is asked about every token. One sample.

    A layer that all tokens run is the upstream layer and shares a batch with other samples; one that all skip is
    jumped over. Padding goes with the tokens that run, as long as there are any.

    Attributes:
        consulted: What the routers of the last inference said, each in the mean over the tokens.
    """

    def __init__(self, backbone: Backbone, modules: SkipModules, tau: float) -> None:
        """Bind the modules as they are now; arguments as of :class:`FlexiDepthTokensPolicy`."""
        layers = modules.partition.dynamic_layers
        self._keys_values, self._beside = backbone.keys_values, backbone.run_layer_beside
        self._routers = {layer: modules.controller(layer).bind() for layer in layers}
        self._adapters = {layer: modules.adapter(layer).bind(backbone.pack) for layer in layers}
        self._tau = tau
        self.consulted: list[Consultation] = []

    def start(self, state: LayerState) -> None:
        """A new inference: nobody consulted."""
        self.consulted = []

    def before(self, layer: int, state: LayerState) -> Step:
        """Run the layer for the tokens whose probability of skipping is at most ``tau``."""
        probabilities = self._skip_probabilities(layer, state)
        real, skips = len(probabilities) - state.padding, probabilities > self._tau
        self.consulted.append(Consultation(layer, float(probabilities.sum()) / real))
        skipping = int(skips.sum())
        if skipping == 0:
            return RUN
        if skipping == real:
            return Jump(layer + 1, self._adapters[layer])
        return Run(by=partial(self._run, skips), tokens=len(skips) - skipping)

    def _skip_probabilities(self, layer: int, state: LayerState) -> Tensor:
        """``[T]`` float64 on the CPU, 0 of padding. The one place where the device is waited for."""
        logits = self._routers[layer](state.hidden)[0]
        if state.mask is not None:
            logits = logits.masked_fill(~state.mask[0], -torch.inf)
        return logits.cpu().double().sigmoid()

    def _run(self, skips: Tensor, layer: int, state: LayerState) -> Tensor:
        """``layer`` for those that do not skip, its adapter for those that do: ``[1, T, H]``."""
        (running, few), (skipping, others) = _part(state, ~skips), _part(state, skips)
        ran, _ = self._beside(layer, few, self._keys_values(layer, others))
        passed = self._adapters[layer](others.hidden)
        return state.hidden.index_copy(1, running, ran).index_copy_(1, skipping, passed)


def _part(state: LayerState, wanted: Tensor) -> tuple[Tensor, LayerState]:
    """Where the tokens ``wanted`` ``[T]`` stand, ``[K]`` int64, and a state of them alone."""
    index, part = wanted.nonzero()[:, 0].to(state.hidden.device), state.fork()
    part.select(index[None])
    return index, part


class FlexiDepthTokensPolicy(SchedulePolicy):
    """Each token goes through the layers that its routers choose for it."""

    schedule: TokenRouting

    def __init__(self, backbone: Backbone, modules: SkipModules, tau: float, execute_horizon: int) -> None:
        """Put trained routers to work.

        Args:
            backbone: The frozen model.
            modules: Of :func:`dyslctl.baselines.flexidepth.flexidepth_modules`, on the same device, in the same dtype.
            tau: The probability above which a token skips a layer.
            execute_horizon: Actions of a chunk that are executed before the next inference.

        Raises:
            ConfigError: If no layer of the backbone can run for some tokens alone.
        """
        require_token_skips(backbone)
        super().__init__(backbone, TokenRouting(backbone, modules, tau), execute_horizon)

    def plan(self, observation: Observation) -> Plan:
        """As any schedule, with what the routers answered in the report."""
        chunk = yield from super().plan(observation)
        self.last = replace(self.last, consulted=tuple(self.schedule.consulted))
        return chunk
