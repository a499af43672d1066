"""VLA-Cache: tokens that look as before are not computed again (Xu et al., arXiv 2502.02175).

    static   = the patches most like those of the last inference;  relevant = what the prompt attended to most then
    reusable = static without relevant

A reusable token leaves the stream at one of four layers. From there on the others attend to the keys and values that
it had in the last inference, so that nothing about it is computed. How many leave at a layer follows from how scattered
the attention was there: share = 1 - entropy, scaled to 0 .. 1 over the layers, and rises are damped.

Where this differs from the public code:

* The last inference's picture is compared with. There, the one of the OpenVLA-OFT script is the current one itself.
* Entropy and relevance are those of the prompt's rows; there they are those of the whole map, which all layers make.
* Both are taken over the tokens that a layer computes, without those whose keys are lent to it: the more are reused,
  the lower is the entropy from the first of the four layers on.
* A token that was reused keeps the attention that it got when it was last computed.
* Counts and layers are scaled to other models (:mod:`dyslctl.pruning.depth`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.engine import LayerSchedule, Run, Step
from dyslctl.policy import Plan, SchedulePolicy
from dyslctl.pruning.attention import AttentionRows, ask, text_tokens
from dyslctl.pruning.depth import count, depth
from dyslctl.pruning.frames import Frame, frame_of, similarity, unchanged
from dyslctl.pruning.settings import PruningSettings
from dyslctl.pruning.tokens import retain, top, views
from dyslctl.types import KeysValues, LayerState, Observation, TokenKind

STAGES = (2, 6, 9, 11)
"""Before which of 32 layers reusable tokens leave."""
RELEVANCE = 16
"""After so many of 32 layers the attention that counts as relevance was paid."""
DAMPING = 0.55
RunBeside = Callable[[int, LayerState, KeysValues | None], tuple[Tensor, KeysValues]]
"""``Backbone.run_layer_beside``."""


def shares(entropies: Tensor) -> Tensor:
    """Of the reusable tokens, how many may be reused at each layer: ``[L]``, from the layers' entropies ``[L]``.

    ``1 - (H - min H) / (max H - min H)``; where it rises from one layer to the next, by ``DAMPING`` of that only.
    """
    span = (entropies.max() - entropies.min()).clamp(min=torch.finfo(entropies.dtype).tiny)
    found = (1 - (entropies - entropies.min()) / span).tolist()
    for layer in range(1, len(found)):
        rise = found[layer] - found[layer - 1]
        found[layer] = found[layer - 1] + (DAMPING * rise if rise > 0 else rise)
    return torch.tensor(found)


@dataclass(frozen=True)
class Remembered:
    """What one inference leaves to the next.

    Attributes:
        layout: Original positions of each view's tokens.
        cache: Keys and values of all visual tokens, in each layer.
        relevance: ``[positions]``, attention that each token got from the prompt.
        entropies: ``[L]``, of the prompt's attention.
    """

    layout: tuple[tuple[int, ...], ...]
    cache: Mapping[int, KeysValues]
    relevance: Tensor
    entropies: Tensor


@dataclass(frozen=True)
class Reuse:
    """What the next pass need not compute.

    Attributes:
        remembered: By the last inference.
        leaving: Layer -> original positions that leave before it, or have left already.
    """

    remembered: Remembered
    leaving: Mapping[int, Tensor]


class VLACacheSchedule(LayerSchedule):
    """Every layer runs, on the tokens that must be computed, beside keys and values of the others. One sample.

    Attributes:
        reuse: For the next pass; ``None``: it computes everything.
        remembered: By the last pass.
    """

    reuse: Reuse | None = None
    remembered: Remembered | None = None

    def __init__(self, rows: AttentionRows, beside: RunBeside, num_layers: int) -> None:
        self._rows, self._beside, self._num_layers = rows, beside, num_layers
        self._relevance_layer = depth(RELEVANCE, num_layers) - 1

    def begin_episode(self, seed: int) -> None:
        """Nothing of another episode is known."""
        self.reuse = self.remembered = None

    def start(self, state: LayerState) -> None:
        """Views that differ from those of the last inference have no past."""
        seen = [state.positions[0, view] for view in views(state.kinds[0])]
        self._layout = tuple(tuple(positions.tolist()) for positions in seen)
        reuse = self.reuse
        self._reuse = reuse if reuse is not None and reuse.remembered.layout == self._layout else None
        self._gone = state.positions.new_zeros(0)
        self._cache, self._entropies = dict[int, KeysValues](), list[Tensor]()
        before = None if self._reuse is None else self._reuse.remembered.relevance
        size = int(state.positions.max()) + 1
        self._relevance = torch.zeros(size, device=state.hidden.device) if before is None else before.clone()

    def before(self, layer: int, state: LayerState) -> Step:
        """Let go what is reused from here on, and listen to the prompt."""
        if self._reuse is not None and layer in self._reuse.leaving:
            self._gone = self._reuse.leaving[layer]
            retain(state, [state.positions[0][~torch.isin(state.positions[0], self._gone)]])
        asked = ask(self._rows, layer, state, text_tokens(state))
        self._entropies.append(asked.entropy(torch.ones_like(state.kinds, dtype=torch.bool))[0])
        if layer == self._relevance_layer:
            self._relevance[state.positions[0]] = asked.received()[0]
        return Run(by=self._run)

    def after(self, layer: int, state: LayerState) -> None:
        """At the end, leave what was found."""
        if layer == self._num_layers - 1:
            self.remembered = Remembered(self._layout, self._cache, self._relevance, torch.stack(self._entropies).cpu())

    def _run(self, layer: int, state: LayerState) -> Tensor:
        lent = None
        if self._reuse is not None and len(self._gone):
            cached = self._reuse.remembered.cache[layer]
            lent = cached.where(torch.isin(cached.positions[0], self._gone))
        hidden, own = self._beside(layer, state, lent)
        visual = own.where(state.kinds[0] >= TokenKind.VISION)
        self._cache[layer] = visual if lent is None else visual.and_(lent)
        return hidden


class VLACachePolicy(SchedulePolicy):
    """Keys and values of what has not changed are taken from the last inference.

    Attributes:
        frame: The pictures of the last inference; ``None`` before the first.
        remembered: What it left.
    """

    schedule: VLACacheSchedule

    def __init__(self, backbone: Backbone, settings: PruningSettings, execute_horizon: int) -> None:
        layers = backbone.spec.num_layers
        schedule = VLACacheSchedule(backbone.attention_rows, backbone.run_layer_beside, layers)
        super().__init__(backbone, schedule, execute_horizon)
        self._settings = settings
        self._stages = sorted({min(depth(stage, layers), layers - 1) for stage in STAGES})
        self.frame: Frame | None = None
        self.remembered: Remembered | None = None

    def reset(self, seed: int = 0) -> None:
        """Forget the past, in the head too."""
        super().reset(seed)
        self.frame = self.remembered = None

    def plan(self, observation: Observation) -> Plan:
        """As any schedule, with a look at the pictures before; what was found is remembered once it is over."""
        frame = frame_of(observation.images)
        self.schedule.reuse = self._reuse(frame)
        chunk = yield from super().plan(observation)
        self.frame, self.remembered = frame, self.schedule.remembered
        return chunk

    def _reuse(self, frame: Frame) -> Reuse | None:
        then, past = self.frame, self.remembered
        if then is None or past is None or [view.shape for view in then] != [view.shape for view in frame]:
            return None
        seen = zip(frame[: len(past.layout)], then, past.layout, strict=False)
        reusable = torch.cat([self._reusable(*view, past.relevance) for view in seen])
        share, most, leaving = shares(past.entropies), 0, dict[int, Tensor]()
        for layer in self._stages:
            most = max(most, math.floor(float(share[layer]) * len(reusable)))
            leaving[layer] = reusable[:most]
        return Reuse(past, leaving)

    def _reusable(self, now: np.ndarray, then: np.ndarray, positions: tuple[int, ...], relevance: Tensor) -> Tensor:
        """Original positions of one view's tokens that look as before and were of no importance, ascending."""
        tokens, settings = len(positions), self._settings
        most = count(settings.static_tokens, tokens)
        static = unchanged(similarity(now, then, tokens), settings.static_similarity, most)
        where = torch.tensor(positions, device=relevance.device)
        plain = torch.zeros(tokens, dtype=torch.bool, device=relevance.device)
        plain[torch.from_numpy(static).to(plain.device)] = True
        plain[top(relevance[where], count(settings.relevant_tokens, tokens))] = False
        return where[plain]
