"""Which visual tokens a pruning method retains through an episode, and whether those that matter are among them.

Which ones matter is what a full pass over the same observation finds: in each view the tokens that the prompt attends
to most in a middle and in the last layer, as many as SpecPrune-VLA's global set has. Of these,

    recall  = the share that is still there after the first pruning, and at the end
    carried = the share that had mattered in the inference before, too: what reusing a global set can hope for

(SpecPrune-VLA, Figures 2 and 14 and section 4.1.) The full pass also tells how scattered each layer's attention is: the
entropy of the prompt's attention among the visual tokens (Eq. 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dyslctl.analysis.wrapped import Asking, Wrapped
from dyslctl.engine import LayerSchedule, Step
from dyslctl.errors import ConfigError
from dyslctl.jobs.episodes import act
from dyslctl.jobs.lockstep import run_together
from dyslctl.policy import Encode, Policy, Predict, Request
from dyslctl.pruning.attention import ask, text_tokens
from dyslctl.pruning.frames import Frame, frame_of
from dyslctl.pruning.settings import PRUNING, PruningSettings
from dyslctl.pruning.specprune import Depths, Layout, SpecPruneSchedule
from dyslctl.suite import EpisodeSpec, TaskSuite
from dyslctl.types import ActionChunk, LayerState, Observation, TokenKind


@dataclass(frozen=True)
class Moment:
    """One inference.

    Attributes:
        inference: From 0.
        step: Actions executed before it.
        kept: Visual tokens at the end of the last layer that saw any.
        kept_first: After the first pruning.
        recall, recall_first: Share of the important ones among those.
        carried: Share of the important ones that were important in the inference before; ``None`` in the first.
        retained: Of each view, indices of the patches that were there at the end, ascending.
    """

    inference: int
    step: int
    kept: int
    kept_first: int
    recall: float
    recall_first: float
    carried: float | None
    retained: tuple[tuple[int, ...], ...] = field(repr=False)


@dataclass(frozen=True)
class Trace:
    """One episode.

    Attributes:
        spec: Its initial state.
        instruction: The first one.
        solved: All subtasks.
        steps: Executed actions.
        tokens: Of each view.
        important: How many count as important, all views together.
        moments: One an inference.
        entropies: ``[inferences, L]``, of the full pass.
        frames: Of each inference, what each view saw.
    """

    spec: EpisodeSpec
    instruction: str
    solved: bool
    steps: int
    tokens: tuple[int, ...]
    important: int
    moments: Sequence[Moment]
    entropies: np.ndarray = field(repr=False)
    frames: Sequence[Frame] = field(repr=False)


def trace(policy: Policy, suite: TaskSuite, spec: EpisodeSpec, settings: PruningSettings = PRUNING) -> Trace:
    """Play one episode and look at the tokens; beside each inference a full pass is run.

    Raises:
        ConfigError: If the layers see no visual tokens, or the backbone shows no attention.
    """
    environment, watched = suite.make(), _Watched(policy, settings)
    moments, frames, instructions = list[Moment](), list[Frame](), list[str]()
    borders = [0]

    def visit(seen: Observation, chunk: ActionChunk, executed: int) -> None:
        moments.append(watched.moment(len(moments), borders[-1]))
        frames.append(frame_of(seen.images))
        instructions.append(seen.instruction)
        borders.append(borders[-1] + executed)

    try:
        outcomes = run_together([lambda task: act(environment, watched, task, suite, visit, alone=False)], [spec])
        ((score, steps),) = outcomes
    finally:
        environment.close()
    tokens = tuple(len(view) for view in watched.layout)
    return Trace(
        spec,
        instructions[0],
        score >= suite.max_score,
        steps,
        tokens,
        len(watched.important),
        moments,
        np.array(watched.entropies),
        frames,
    )


class _Watched(Wrapped):
    """Runs a full pass beside each inference, and notes which tokens the inner policy's own passes go on with.

    Attributes:
        layout: Original positions of each view's tokens.
        important: Positions, of the last full pass.
        entropies: Of each inference, one a layer.
    """

    layout: Layout = ()

    def __init__(self, inner: Policy, settings: PruningSettings) -> None:
        super().__init__(inner)
        backbone = inner.backbone
        # Not those that the inner method looks at: what matters is judged in the same layers for all of them.
        tokens = SpecPruneSchedule(backbone.attention_rows, settings, Depths.of(backbone.spec.num_layers))
        self._reference = _Listening(tokens)
        self.important: frozenset[int] = frozenset()
        self._before: frozenset[int] | None = None
        self.entropies: list[list[float]] = []
        self._kept: dict[int, frozenset[int]] = {}

    def reset(self, seed: int = 0) -> None:
        """A new episode or instruction: nothing was important before."""
        super().reset(seed)
        self.important = frozenset()

    def ask(self, request: Request) -> Asking:
        """A full pass once the observation is encoded; a notebook beside each of the policy's own passes."""
        if isinstance(request, Encode):
            state: LayerState = yield request
            yield from self._look(state.fork())
            return state
        noting = _Noting(request.schedule)
        answer = yield Predict(request.backbone, request.state, noting, request.first)
        # A second prediction begins behind the layers of the first that it shares.
        self._kept = {layer: kept for layer, kept in self._kept.items() if layer < request.first} | noting.kept
        return answer

    def moment(self, inference: int, step: int) -> Moment:
        """The inference that was just executed."""
        everything = frozenset(position for view in self.layout for position in view)
        fewer = [kept for _, kept in sorted(self._kept.items()) if kept and kept != everything]
        last, first = (fewer[-1], fewer[0]) if fewer else (everything, everything)
        retained = tuple(tuple(i for i, position in enumerate(view) if position in last) for view in self.layout)
        return Moment(
            inference,
            step,
            len(last),
            len(first),
            _share(self.important, last),
            _share(self.important, first),
            None if self._before is None else _share(self.important, self._before),
            retained,
        )

    def _look(self, state: LayerState) -> Asking:
        memory = self.backbone.snapshot()
        yield Predict(self.backbone, state, self._reference)
        self.backbone.restore(memory)
        found = self._reference.tokens.found
        if found is None:
            raise ConfigError("expected a pass through every layer to find important tokens")
        self._before = self.important or None
        self.layout = found.layout
        self.important = frozenset(position for view in found.important for position in view.tolist())
        self.entropies.append(self._reference.entropies)


class _Listening(LayerSchedule):
    """A full pass that finds what is important, and measures each layer's entropy.

    Attributes:
        tokens: Without an outlook: it prunes nothing.
        entropies: Of the last pass, one a layer.
    """

    def __init__(self, tokens: SpecPruneSchedule) -> None:
        self.tokens = tokens
        self.entropies: list[float] = []

    def start(self, state: LayerState) -> None:
        """A new pass."""
        self.tokens.start(state)
        self.entropies = []

    def before(self, layer: int, state: LayerState) -> Step:
        """Listen in every layer."""
        asked = ask(self.tokens.rows, layer, state, text_tokens(state))
        self.entropies.append(float(asked.entropy(state.kinds >= TokenKind.VISION)[0]))
        return self.tokens.before(layer, state)

    def after(self, layer: int, state: LayerState) -> None:
        """Leave what was found."""
        self.tokens.after(layer, state)


class _Noting(LayerSchedule):
    """Another schedule, and the visual tokens that were there after each layer that ran.

    Attributes:
        kept: Original positions, by layer.
    """

    def __init__(self, schedule: LayerSchedule) -> None:
        self._schedule = schedule
        self.kept: dict[int, frozenset[int]] = {}

    def start(self, state: LayerState) -> None:
        """Start the wrapped schedule."""
        self._schedule.start(state)

    def before(self, layer: int, state: LayerState) -> Step:
        """The wrapped decision."""
        return self._schedule.before(layer, state)

    def after(self, layer: int, state: LayerState) -> None:
        """Tell the wrapped schedule, then note."""
        self._schedule.after(layer, state)
        visual: Tensor = state.positions[0][state.kinds[0] >= TokenKind.VISION]
        self.kept[layer] = frozenset(torch.unique(visual).tolist())


def _share(wanted: frozenset[int], kept: frozenset[int]) -> float:
    return len(wanted & kept) / len(wanted)
