"""SpecPrune-VLA (Wang et al., arXiv 2509.05614v3): prune by what the last inference found, and by the present.

    V_retain = V_global + V_dynamic + V_local                                           (section 4)

``V_global``: what the prompt attended to most in a middle and in the last layer of the previous inference.
``V_dynamic``: patches whose pixels have changed since. ``V_local``: what the first two layers attend to now. All other
visual tokens go, once, after the second layer. Then, deeper and deeper, the least important tenth goes (section 5). How
many of each kind stay depends on whether the motion is coarse or fine (section 6).

Where the paper is open or its public code differs (that one has no global set, no entropy, and drops BOS):

* Attention is that of text queries to visual keys, as in Equation 7 and the code; Equation 2 is the other way round.
* Scores of the two global layers are scaled to 0 .. 1 each and averaged; a token that was pruned before a layer counts
  nothing there. Ranks are those of a mean over heads.
* Entropy is that of the attention among image keys, scaled to sum to one: as Equation 7 is written, the layers that
  look at the image least would be trusted most.
* Every budget is a view's own. That alone explains the paper's number of retained tokens.
* Importance is updated at every layer between the static pruning and the last pruning, but not where one prunes.
* The first inference prunes nothing, as does one whose views differ from those of the one before: it has no past. It
  measures the entropies that the next ones reuse.
* Layers and budgets are scaled to models of other depths and views of other sizes (:mod:`dyslctl.pruning.depth`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from dyslctl.engine import RUN, LayerSchedule, Run, Step
from dyslctl.pruning.action_mode import Mode
from dyslctl.pruning.attention import Asked, AttentionRows, RunWithRows, ask, run_asking, text_tokens
from dyslctl.pruning.depth import count, depth, depths
from dyslctl.pruning.importance import confidence, min_max, moved, rank_weights
from dyslctl.pruning.settings import PruningSettings
from dyslctl.pruning.tokens import prune, retain, snapped, top, views
from dyslctl.types import LayerState, TokenKind

Layout = tuple[tuple[int, ...], ...]
"""The original positions of each view's tokens."""


@dataclass(frozen=True)
class Budgets:
    """How many tokens of a view each source may name."""

    global_: int
    local: int
    dynamic: int

    @classmethod
    def of(cls, settings: PruningSettings, mode: Mode, tokens: int) -> Budgets:
        """``K = alpha base``, for a view of ``tokens`` (A.6.2)."""
        local, dynamic = (
            (settings.local_fine, settings.dynamic_fine)
            if mode == "fine"
            else (settings.local_coarse, settings.dynamic_coarse)
        )
        wanted = (settings.alpha * base for base in (settings.global_tokens, local, dynamic))
        return cls(*(count(base, tokens) for base in wanted))


@dataclass(frozen=True)
class Depths:
    """At which layers what happens, 0-based; of 32: local 0, 1; global 14, 31; pruned after 9, 14, 19, 24.

    Attributes:
        local: Whose attention names the local set; after the last of them the static pruning is.
        global_: Whose attention names the next inference's global set.
        pruned: After which the least important go.
        updated: Before which importance is updated.
        stand_ins: Of the global ones, those that count only in passes that leave before the next.
    """

    local: tuple[int, ...]
    global_: tuple[int, ...]
    pruned: tuple[int, ...]
    updated: tuple[int, ...]
    stand_ins: tuple[int, ...] = ()

    @classmethod
    def of(cls, num_layers: int) -> Depths:
        """Scaled: the first pruning leaves a layer to learn importance from, and so does each later one."""
        local = tuple(range(min(2, num_layers)))
        first, last, step = max(4, depth(10, num_layers)), depth(25, num_layers), max(2, depth(5, num_layers))
        pruned = tuple(layers - 1 for layers in range(first, last + 1, step) if layers < num_layers)
        updated = tuple(layer for layer in range(2, pruned[-1] if pruned else 0) if layer not in pruned)
        return cls(local, tuple(layers - 1 for layers in depths((15, 32), num_layers)), pruned, updated)


@dataclass(frozen=True)
class Found:
    """What one inference leaves to the next.

    Attributes:
        layout: Its visual tokens, before any went.
        important: ``V_global``, original positions, a view each.
        trust: Confidence of each updated layer (Eq. 8), measured once.
    """

    layout: Layout
    important: tuple[Tensor, ...]
    trust: Mapping[int, Tensor]


@dataclass(frozen=True)
class Outlook:
    """What is known before the first layer.

    Attributes:
        found: By the previous inference.
        mode: Coarse or fine.
        changed: ``V_dynamic``, indices into each view's patches.
    """

    found: Found
    mode: Mode
    changed: tuple[np.ndarray, ...]


@dataclass
class PassMemory:
    """What one pass gathers. Vectors are indexed by original position.

    Attributes:
        layout: Visual tokens before any went.
        outlook: What it prunes by, or ``None``.
        trust: Confidence of each updated layer: measured now, or taken over.
        importance: ``S`` (Eq. 9).
        global_: Mean score in the global layers.
        reached: Whether a token reached any of them.
        sure: ``global_`` and ``reached`` without the stand-in that was heard last; ``None``: none was.
        local: Scores of all tokens in each of the first layers.
    """

    layout: Layout
    outlook: Outlook | None
    trust: dict[int, Tensor]
    importance: Tensor
    global_: Tensor
    reached: Tensor
    sure: tuple[Tensor, Tensor] | None = None
    local: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, layout: Layout, outlook: Outlook | None, nothing: Tensor) -> PassMemory:
        """At its beginning; ``nothing``: zeros, one a position."""
        trust = {} if outlook is None else dict(outlook.found.trust)
        return cls(layout, outlook, trust, nothing, nothing.clone(), nothing.bool())

    def fork(self) -> PassMemory:
        """A second one at the same point."""
        return replace(
            self,
            trust=dict(self.trust),
            importance=self.importance.clone(),
            global_=self.global_.clone(),
            reached=self.reached.clone(),
            local=list(self.local),
        )


class SpecPruneSchedule(LayerSchedule):
    """Every layer runs, on fewer and fewer visual tokens. One sample at a time.

    Attributes:
        rows: What tokens attend to.
        depths: Where it looks and prunes.
        outlook: For the next pass; ``None``: it prunes nothing, and only looks.
        found: By the last pass.
        unpruned: State and memory of the last pass behind the local layers, before anything went.
    """

    outlook: Outlook | None = None
    found: Found | None = None
    unpruned: tuple[LayerState, PassMemory] | None = None

    def __init__(
        self, rows: AttentionRows, settings: PruningSettings, depths: Depths, run_with_rows: RunWithRows | None = None
    ) -> None:
        """``run_with_rows``: what runs a layer that is listened to, where it runs alone."""
        self.rows, self._settings = rows, settings
        self._run_with_rows = run_with_rows
        self._entering: Tensor | None = None
        self._asked: Asked | None = None
        self.depths = depths
        self._restored: PassMemory | None = None

    def begin_episode(self, seed: int) -> None:
        """Nothing of another episode is known."""
        self.outlook = self.found = None

    def start(self, state: LayerState) -> None:
        """Note where the visual tokens stand; those of another layout than the outlook's have no past."""
        if self._restored is not None:
            self._pass, self._restored = self._restored, None
            return
        seen = views(state.kinds[0])
        self._views = [state.positions[0, view] for view in seen]
        layout = tuple(tuple(positions.tolist()) for positions in self._views)
        usable = self.outlook is not None and self.outlook.found.layout == layout
        nothing = torch.zeros(int(state.positions.max()) + 1, device=state.hidden.device)
        self._pass, self.unpruned = PassMemory.of(layout, self.outlook if usable else None, nothing), None

    def before(self, layer: int, state: LayerState) -> Step:
        """Listen to what the prompt attends to, where that is of use; what it says is heard once the layer has run."""
        listens = layer in self._listens(self._pass.outlook is not None)
        self._entering, self._asked = state.hidden if listens else None, None
        if not listens or self._run_with_rows is None:
            return RUN
        return Run(partial(self._run_asking, self._run_with_rows), shares=True)

    def after(self, layer: int, state: LayerState) -> None:
        """Hear; prune, once by what was named, later by importance; at the end, leave what was found."""
        now = self._pass
        if self._entering is not None:
            self._hear(layer, replace(state, hidden=self._entering))
            self._entering = None
        if layer == self.depths.local[-1]:
            self.unpruned = state.fork(), now.fork()
            self._prune_once(state)
        for _ in range(self.depths.pruned.count(layer)):
            self.prune_deeper(state)
        if layer in self.depths.global_:
            self.found = Found(now.layout, tuple(map(self._most_important, self._views)), now.trust)

    def prune_deeper(self, state: LayerState) -> None:
        """The least important of each view go, if anything goes in this pass."""
        if self._pass.outlook is not None:
            known = self._pass.importance[state.positions]
            prune(state, self._settings.layer_share, top, known, self._settings.bucket)

    def snapshot(self) -> PassMemory:
        """What the pass has gathered so far."""
        return self._pass.fork()

    def restore(self, memory: PassMemory) -> None:
        """The next ``start`` continues the pass that ``memory`` is of."""
        self._restored = memory

    def restart(self, outlook: Outlook | None) -> LayerState:
        """The last pass again, from behind the local layers, with another ``outlook``: the state to continue with.

        Raises:
            ValueError: If that pass did not come so far.
        """
        if self.unpruned is None:
            raise ValueError(f"expected a pass beyond layer {self.depths.local[-1]} to restart")
        state, memory = self.unpruned
        state = state.fork()
        self._pass = replace(memory.fork(), outlook=outlook)
        self._prune_once(state)
        self.restore(self._pass)
        return state

    def _prune_once(self, state: LayerState) -> None:
        if self._pass.outlook is not None:
            retain(state, [self._named(state, self._pass.outlook)])

    def _run_asking(self, run: RunWithRows, layer: int, state: LayerState) -> Tensor:
        hidden, self._asked = run_asking(run, layer, state, text_tokens(state))
        return hidden

    def _hear(self, layer: int, state: LayerState) -> None:
        """``state`` is the one before ``layer``."""
        now, asked = self._pass, self._asked or ask(self.rows, layer, state, text_tokens(state))
        if layer in self.depths.local:
            now.local.append(asked.received()[0])
        if layer in self.depths.updated:
            self._weigh(layer, state, asked)
        if layer in self.depths.global_:
            self._note_global(layer, state, asked.received()[0])

    def _listens(self, prunes: bool) -> tuple[int, ...]:
        depths = self.depths
        return (*depths.global_, *depths.updated, *(depths.local if prunes else ()))

    def _weigh(self, layer: int, state: LayerState, asked: Asked) -> None:
        """Without a past measure how much the layer is to be trusted, else let it move the importance."""
        now = self._pass
        if now.outlook is None:
            seen = state.kinds >= TokenKind.VISION
            now.trust[layer] = confidence(asked.entropy(seen)[0])
            return
        scores = asked.received()[0]
        for view in views(state.kinds[0]):
            positions, weights = state.positions[0, view], rank_weights(scores[view], self._settings.rank_slope)
            now.importance[positions] = moved(
                now.importance[positions], weights, now.trust[layer], self._settings.update_rate
            )

    def _note_global(self, layer: int, state: LayerState, scores: Tensor) -> None:
        now = self._pass
        if now.sure is not None:  # the layer that the stand-in stood for, or a nearer one
            now.global_, now.reached = (each.clone() for each in now.sure)
        now.sure = (now.global_.clone(), now.reached.clone()) if layer in self.depths.stand_ins else None
        for view in views(state.kinds[0]):
            positions = state.positions[0, view]
            now.global_[positions] += min_max(scores[view]) / len(self.depths.global_)
            now.reached[positions] = True

    def _named(self, state: LayerState, outlook: Outlook) -> Tensor:
        """Positions that stay after the static pruning. A budget that is not full is filled by the second layer."""
        kept = []
        for number, view in enumerate(views(state.kinds[0])):
            positions, tokens = state.positions[0, view], len(view)
            named = torch.isin(positions, outlook.found.important[number])
            named[torch.from_numpy(outlook.changed[number]).to(named.device)] = True
            budgets = Budgets.of(self._settings, outlook.mode, tokens)
            for scores in self._pass.local:
                named[top(scores[view], budgets.local)] = True
            so_far = int(named.sum())
            missing = snapped(so_far, tokens, self._settings.bucket) - so_far
            named[top(self._pass.local[-1][view].masked_fill(named, -torch.inf), missing)] = True
            kept.append(positions[named])
        return torch.cat(kept)

    def _most_important(self, positions: Tensor) -> Tensor:
        """Of one view, among those that reached a global layer."""
        reached = positions[self._pass.reached[positions]]
        wanted = Budgets.of(self._settings, "coarse", len(positions)).global_
        return reached[top(self._pass.global_[reached], wanted)]
