"""Dials tried on robots: the episodes behind :mod:`dyslctl.jobs.budget`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

from dyslctl.errors import ConfigError
from dyslctl.jobs.budget import Drop, Outcome
from dyslctl.jobs.latency import Series, demonstration_frames, measure
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.jobs.recipe import PolicyRecipe
from dyslctl.jobs.rollout import evaluate
from dyslctl.jobs.statistics import paired_difference
from dyslctl.jobs.summary import BASELINE, EvaluationResult, MethodSummary, compare
from dyslctl.policy import Policy
from dyslctl.suite import EpisodeSpec, TaskSuite
from dyslctl.types import Observation

SERIES = Series(warmup=10, iterations=200)
"""Of the timing behind a budget in milliseconds."""
FRAMES = 4
"""Episodes that its frames are from."""


class Around(Protocol):
    """Makes one policy of another: disturbed, or watched. Plain values, since worker processes get it."""

    def __call__(self, policy: Policy) -> Policy:
        """The policy that plays in the place of ``policy``."""

    def identity(self) -> dict[str, Any]:
        """What its episodes depend on, as plain values for JSON."""


DIAL_FOLDER = "dial_"
"""Begins the name of a trial's folder; the dial follows."""


@dataclass(frozen=True)
class Stage:
    """Where and how methods play.

    Attributes:
        specs: The initial states, of one split.
        out: Folder of all evaluations, one folder each.
        resume: Keep the episodes that are already there.
        workers, batch: As in :func:`dyslctl.jobs.rollout.evaluate`.
    """

    suite: TaskSuite
    specs: Sequence[EpisodeSpec]
    out: Path
    resume: bool = False
    workers: int = 1
    batch: int = 1
    progress: Progress = NO_PROGRESS

    def play(self, method: str, recipe: PolicyRecipe, folder: str, around: Around | None = None) -> EvaluationResult:
        """All episodes of ``method``, kept in ``folder``; of what ``around`` makes of it, if given.

        Raises:
            ArtifactError: If ``folder`` is to be resumed and holds episodes of another recipe.
            PluginError: If an episode crashed: what is left would be a choice of episodes.
        """
        result = evaluate(
            self.suite,
            {method: _factory(method, recipe, around)},
            self.specs,
            self.out / folder,
            about=recipe.about([method]) | ({} if around is None else {"around": around.identity()}),
            resume=self.resume,
            workers=self.workers,
            batch=self.batch,
            progress=self.progress,
            description=folder,
        )
        result.require_finished()
        return result


class ClosedLoop:
    """Plays a method at different dials, all on the episodes of ``stage``; a dial that is asked for again is not."""

    def __init__(self, method: str, recipe: PolicyRecipe, stage: Stage) -> None:
        self._method, self._recipe, self._stage = method, recipe, stage
        self._played: dict[float, EvaluationResult] = {}

    def full(self) -> Outcome:
        """The full model."""
        return outcome(self._full.methods[BASELINE], self._stage.suite.max_score)

    def at(self, dial: float) -> Outcome:
        """The method at ``dial``."""
        return outcome(self._play(dial).methods[self._method], self._stage.suite.max_score)

    def drop(self, dial: float) -> Drop:
        """What the method loses at ``dial`` against the full model, episode by episode."""
        subtasks = self._stage.suite.max_score
        pair = compare(self._play(dial).records, self._full.records, subtasks)
        if subtasks > 1 and pair.score_difference_ci95 is not None:
            worst, best = pair.score_difference_ci95
            return Drop(*(0.0 - 100 * gain / subtasks for gain in (pair.score_difference or 0.0, best, worst)))
        pairs = pair.wins + pair.losses + pair.ties
        low, high = paired_difference(pair.losses, pair.wins, pairs)
        return Drop(100 * (pair.losses - pair.wins) / pairs, 100 * low, 100 * high)

    def ms_per_layer(self, dial: float | None) -> float:
        """Milliseconds of an executed layer at batch 1 on frames of recorded episodes; ``None``: of the full model."""
        method = BASELINE if dial is None else self._method
        policy = replace(self._recipe, dial=dial).factory(method)()
        latency = measure(self._recipe.backbone.load(), {method: policy}, self._frames, SERIES)[method]
        return latency.mean("llm") / (float(latency.layers.mean()) or 1.0)  # each token may skip all of them

    @cached_property
    def _full(self) -> EvaluationResult:
        return self._stage.play(BASELINE, self._recipe, BASELINE)

    def _play(self, dial: float) -> EvaluationResult:
        if dial not in self._played:
            folder = f"{self._method}/{DIAL_FOLDER}{dial:g}"
            self._played[dial] = self._stage.play(self._method, replace(self._recipe, dial=dial), folder)
        return self._played[dial]

    @cached_property
    def _frames(self) -> list[list[Observation]]:
        return demonstration_frames(self._stage.suite, FRAMES, self._stage.specs[0].split)


def outcome(summary: MethodSummary, max_score: int) -> Outcome:
    """What the search for a dial needs of an evaluation in which every episode was played to its end."""
    if summary.mean_layers_run is None or summary.avg_len is None:
        raise ConfigError("nothing to decide by: expected at least one finished episode, found none")
    solved, error = summary.avg_len / max_score, summary.mean_layers_run_se or 0.0
    return Outcome(summary.episodes, summary.successes, summary.mean_layers_run, solved, error)


def _factory(method: str, recipe: PolicyRecipe, around: Around | None) -> Callable[[], Policy]:
    make = recipe.factory(method)
    return make if around is None else partial(_made_around, around, make)


def _made_around(around: Around, make: Callable[[], Policy]) -> Policy:
    return around(make())
