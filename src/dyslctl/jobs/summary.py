"""What an evaluation found: one summary a method, one paired comparison a method against the full model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from dyslctl.errors import PluginError
from dyslctl.jobs.episodes import EpisodeRecord
from dyslctl.jobs.statistics import bootstrap_mean, mcnemar, paired_bootstrap, ratio_error, wilson

BASELINE = "full"
CHANCE = ("dysl", "random-skip-adapters")
"""Random skipping takes ``dysl``'s adapters and its mean layers: what remains between them is knowing when."""


@dataclass(frozen=True)
class MethodSummary:
    """One method over all its finished episodes; ``None`` where there were none.

    Attributes:
        episodes: Finished ones, ``n`` of every number here; crashed ones are in ``errors``.
        first_error: What the first of those crashed with.
        success_ci95: Wilson interval.
        avg_len: Mean number of subtasks solved, with its bootstrap interval: CALVIN's average successful length.
        chain_rates: Share of episodes with at least 1, 2, ... subtasks solved; the last one is ``success_rate``.
        mean_layers_run: Executed layers an inference, re-predictions counted.
        mean_layers_run_se: Its standard error over episodes; ``None`` also where there was but one.
        mean_tokens: Tokens that an executed layer saw; ``None`` if not known.
        llm_ms_mean, llm_ms_p50: Latency of the decoder layers of one inference, milliseconds.
    """

    episodes: int
    successes: int
    success_rate: float | None
    success_ci95: tuple[float, float]
    errors: int
    first_error: str | None
    avg_len: float | None
    avg_len_ci95: tuple[float, float] | None
    chain_rates: tuple[float, ...] | None
    mean_layers_run: float | None
    mean_layers_run_se: float | None
    mean_tokens: float | None
    layers_per_episode: float | None
    inferences_per_episode: float | None
    controllers_per_inference: float | None
    jumps_per_inference: float | None
    verifications_per_episode: float | None
    llm_ms_mean: float | None
    llm_ms_p50: float | None


SUMMARY_KEYS = tuple(field.name for field in fields(MethodSummary))
"""What ``--fail-if METHOD.KEY`` may name."""


@dataclass(frozen=True)
class Comparison:
    """A method against ``versus`` on the episodes that both finished.

    Attributes:
        wins: Episodes only the method solved.
        losses: Episodes only ``versus`` solved.
        ties: Episodes both or neither solved.
        p_value: Exact two-sided McNemar test.
        score_difference: Mean difference of subtasks solved, with its paired-bootstrap interval.
    """

    versus: str
    wins: int
    losses: int
    ties: int
    p_value: float
    score_difference: float | None
    score_difference_ci95: tuple[float, float] | None


@dataclass(frozen=True)
class EvaluationResult:
    """All of it.

    Attributes:
        episodes: Episodes asked of each method.
        paired: Method -> comparison against ``full``, if that was evaluated; and :data:`CHANCE`, if both were.
        records: Every episode, by index, then method.
    """

    suite: str
    split: str
    episodes: int
    methods: Mapping[str, MethodSummary]
    paired: Mapping[str, Comparison]
    records: Sequence[EpisodeRecord]

    def as_dict(self) -> dict[str, Any]:
        """The ``eval --json`` document; the records stay in ``episodes.jsonl``."""
        return {
            "schema": "dyslctl.eval/1",
            "suite": self.suite,
            "split": self.split,
            "episodes": self.episodes,
            "methods": {name: asdict(summary) for name, summary in self.methods.items()},
            "paired": {name: asdict(comparison) for name, comparison in self.paired.items()},
        }

    def require_finished(self) -> None:
        """Every episode was played to its end.

        Raises:
            PluginError: If one crashed: what is left would be a choice of episodes.
        """
        crashed = [record for record in self.records if not record.done]
        if crashed:
            played = f"{len(self.records)} episodes of " + ", ".join(f"'{name}'" for name in self.methods)
            raise PluginError(
                f"{len(crashed)} of {played} crashed, the first with: {crashed[0].error}",
                hint="--resume runs the crashed ones again",
            )


def require_played(methods: Mapping[str, Mapping[str, Any]], where: str = "") -> None:
    """Did any episode of each method come to its end?

    Args:
        methods: Their summaries, from the document of an evaluation.
        where: The suite, for the message.

    Raises:
        PluginError: If none of a method's did: the evaluation says nothing of it.
    """
    for name, found in methods.items():
        if not found["episodes"]:
            place = f" on {where}" if where else ""
            raise PluginError(
                f"'{name}'{place}: every episode crashed, {found['errors']} in all, the first with: "
                f"{found['first_error']}",
                hint="--resume plays them again",
            )


def summarize(
    suite: str,
    split: str,
    episodes: int,
    methods: Sequence[str],
    records: Sequence[EpisodeRecord],
    max_score: int = 1,
) -> EvaluationResult:
    """Count and compare; methods in the order given. ``max_score``: subtasks in an episode."""
    order = {name: place for place, name in enumerate(methods)}
    ordered = sorted(records, key=lambda record: (record.index, order[record.method]))
    by_method = {name: [record for record in ordered if record.method == name] for name in methods}
    pairs = {name: (name, BASELINE) for name in methods if name != BASELINE and BASELINE in methods}
    if set(CHANCE) <= set(methods):
        pairs[" vs ".join(CHANCE)] = CHANCE
    return EvaluationResult(
        suite=suite,
        split=split,
        episodes=episodes,
        methods={name: summarize_method(own, max_score) for name, own in by_method.items()},
        paired={name: compare(by_method[one], by_method[other], max_score) for name, (one, other) in pairs.items()},
        records=ordered,
    )


def summarize_method(records: Sequence[EpisodeRecord], max_score: int = 1) -> MethodSummary:
    """Summary of one method's episodes, of ``max_score`` subtasks each."""
    done = [record for record in records if record.done]
    successes = sum(record.success for record in done)
    inferences = sum(record.inferences for record in done)
    llm_ms = [value for record in done for value in record.llm_ms]
    scores = [float(record.score) for record in done]
    layers = sum(record.layers_run for record in done)
    counted = [record for record in done if record.layer_tokens]
    return MethodSummary(
        episodes=len(done),
        successes=successes,
        success_rate=_ratio(successes, len(done)),
        success_ci95=wilson(successes, len(done)),
        errors=len(records) - len(done),
        first_error=next((record.error for record in records if not record.done), None),
        avg_len=_ratio(sum(scores), len(done)),
        avg_len_ci95=bootstrap_mean(scores, (0, max_score)) if scores else None,
        chain_rates=_chain_rates(scores, max_score) if scores else None,
        mean_layers_run=_ratio(layers, inferences),
        mean_layers_run_se=ratio_error([record.layers_run for record in done], [record.inferences for record in done]),
        mean_tokens=_ratio(sum(record.layer_tokens for record in counted), sum(r.layers_run for r in counted)),
        layers_per_episode=_ratio(layers, len(done)),
        inferences_per_episode=_ratio(inferences, len(done)),
        controllers_per_inference=_ratio(sum(record.controllers for record in done), inferences),
        jumps_per_inference=_ratio(sum(record.jumps for record in done), inferences),
        verifications_per_episode=_ratio(sum(record.verifications for record in done), len(done)),
        llm_ms_mean=float(np.mean(llm_ms)) if llm_ms else None,
        llm_ms_p50=float(np.median(llm_ms)) if llm_ms else None,
    )


def compare(method: Sequence[EpisodeRecord], versus: Sequence[EpisodeRecord], max_score: int = 1) -> Comparison:
    """Pair ``method`` with ``versus`` by episode; episodes that either did not finish are left out."""
    other = {record.index: record for record in versus if record.done}
    pairs = [(record, other[record.index]) for record in method if record.done and record.index in other]
    wins = sum(a.success and not b.success for a, b in pairs)
    losses = sum(b.success and not a.success for a, b in pairs)
    ours, theirs = [a.score for a, _ in pairs], [b.score for _, b in pairs]
    difference = paired_bootstrap(ours, theirs, max_score) if pairs else None
    return Comparison(
        versus=versus[0].method if versus else BASELINE,
        wins=wins,
        losses=losses,
        ties=len(pairs) - wins - losses,
        p_value=mcnemar(wins, losses),
        score_difference=difference[0] if difference else None,
        score_difference_ci95=difference[1:] if difference else None,
    )


def _chain_rates(scores: Sequence[float], max_score: int) -> tuple[float, ...]:
    return tuple(sum(score >= length for score in scores) / len(scores) for length in range(1, max_score + 1))


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None
