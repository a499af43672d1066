"""One episode: how it is run, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dyslctl.errors import ArtifactError, EnvironmentMismatch, PluginError
from dyslctl.jobs.lockstep import Coroutine
from dyslctl.jobs.simulators import Begin, Execute
from dyslctl.policy import Policy, StepReport
from dyslctl.suite import Environment, EpisodeSpec, TaskSuite
from dyslctl.types import ActionChunk, Observation

RESTART = "without --resume the evaluation starts anew"
Visitor = Callable[[Observation, ActionChunk, int], object]
"""Told of each inference: what it saw, the chunk it gave, and how many of its actions were executed."""


@dataclass(frozen=True)
class EpisodeRecord:
    """One line of ``episodes.jsonl``. Everything but the ``_ms`` fields is deterministic.

    Attributes:
        index: Position in the split, the pairing key.
        status: ``error`` is a crash of policy or simulator: never counted as a failure of the policy.
        score: Subtasks solved.
        success: All of them.
        steps: Executed actions.
        inferences: Model queries.
        layers_run: Executed decoder layers over all inferences, re-predictions included.
        mean_layers_run: Of one inference.
        layers_by_inference: Executed layers of each inference, in order.
        layer_tokens: Tokens that executed layers saw, summed over layers and inferences; 0 if not known.
        controllers: Skipping controllers asked, over all inferences.
        jumps: Jumps over layers, through an adapter or plain, over all inferences.
        verifications: Inferences that post-skip verification predicted again.
        parts_ms: Latency of each part of an inference, milliseconds summed over all inferences. Empty, as ``llm_ms``,
            if episodes ran side by side: an inference then has no time of its own.
        llm_ms: Latency of the decoder layers of each inference, milliseconds.
        reprediction_ms: The part of ``llm`` and ``head`` that predicting again took, milliseconds over all inferences.
        noted: What a study noted of each inference; empty without one.
        error: ``Type: message`` of what crashed.
    """

    method: str
    suite: str
    split: str
    index: int
    task: str
    seed: int
    status: Literal["done", "error"]
    score: int = 0
    success: bool = False
    steps: int = 0
    inferences: int = 0
    layers_run: int = 0
    mean_layers_run: float = 0.0
    layers_by_inference: Sequence[int] = ()
    layer_tokens: int = 0
    controllers: int = 0
    jumps: int = 0
    verifications: int = 0
    parts_ms: Mapping[str, float] = field(default_factory=dict)
    llm_ms: Sequence[float] = ()
    reprediction_ms: float = 0.0
    noted: Sequence[Mapping[str, float]] = ()
    error: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any], where: Path) -> EpisodeRecord:
        """The record in one line of ``where``.

        Raises:
            ArtifactError: If its keys are not those of a record.
        """
        try:
            return cls(**row)
        except TypeError as error:
            raise ArtifactError(f"{where}: a line is not an episode: {error}", hint=RESTART) from error

    @classmethod
    def crash(cls, spec: EpisodeSpec, method: str, error: str) -> EpisodeRecord:
        """An episode that did not come to its end."""
        return cls(method=method, **asdict(spec), status="error", error=error)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @property
    def key(self) -> tuple[str, int]:
        """Method and index: what resuming skips by."""
        return self.method, self.index

    @property
    def done(self) -> bool:
        """The episode came to its end, solved or not."""
        return self.status == "done"


def episode(
    environment: Environment, policy: Policy, method: str, spec: EpisodeSpec, suite: TaskSuite, *, alone: bool = True
) -> Coroutine[EpisodeRecord]:
    """Let ``policy`` act in the episode ``spec``; a crash becomes a record of status ``error``.

    ``alone`` it is timed; otherwise it asks for what others may share, and is not.
    """
    reports: list[StepReport] = []
    try:
        score, steps = yield from act(
            environment, policy, spec, suite, lambda *_: reports.append(policy.last), alone=alone
        )
    except EnvironmentMismatch:  # such as a full disk: no other episode will do better
        raise
    except Exception as error:
        return EpisodeRecord.crash(spec, method, f"{type(error).__name__}: {error}")
    success, totals = score >= suite.max_score, _totals(reports)
    return EpisodeRecord(
        method=method, **asdict(spec), status="done", score=score, success=success, steps=steps, **totals
    )


def act(
    environment: Environment, policy: Policy, spec: EpisodeSpec, suite: TaskSuite, visit: Visitor, *, alone: bool
) -> Coroutine[tuple[int, int]]:
    """Act until the episode is over: its score and the number of actions. ``visit`` is told of each inference.

    Raises:
        PluginError: If the policy returns an action that is not finite.
    """
    observation: Observation = yield Begin(environment, spec)
    score, steps = 0, 0
    policy.reset(seed=reset_seed(spec.seed, score, suite.max_score))
    while steps < suite.max_steps:
        seen = observation.painted()
        chunk = policy.select_action(seen) if alone else (yield from policy.plan(seen))
        actions = _finite(chunk.actions)[: suite.max_steps - steps]
        result, executed = yield Execute(environment, actions)
        observation, score, steps = result.observation, result.score, steps + executed
        visit(seen, chunk, executed)
        if result.done:
            break
        if result.new_instruction:
            policy.reset(seed=reset_seed(spec.seed, score, suite.max_score))
    return score, steps


def reset_seed(seed: int, score: int, max_score: int) -> int:
    """What a policy is reset with: another number for each episode, by its ``seed``, and each of its subtasks."""
    return seed * max_score + score


def _finite(actions: np.ndarray) -> np.ndarray:
    if not np.isfinite(actions).all():
        raise PluginError(f"expected finite actions, the policy returned {actions.tolist()}")
    return actions


def _totals(reports: Sequence[StepReport]) -> dict[str, Any]:
    layers = sum(report.layers_run for report in reports)
    parts = sorted({part for report in reports for part in report.timings_ms})
    return {
        "inferences": len(reports),
        "layers_run": layers,
        "mean_layers_run": round(layers / len(reports), 6) if reports else 0.0,
        "layers_by_inference": [report.layers_run for report in reports],
        "layer_tokens": sum(sum(report.tokens) for report in reports),
        "controllers": sum(len(report.consulted) for report in reports),
        "jumps": sum(len(report.jumps) for report in reports),
        "verifications": sum(report.verified for report in reports),
        "parts_ms": {part: round(sum(report.timings_ms.get(part, 0.0) for report in reports), 3) for part in parts},
        "llm_ms": [round(report.timings_ms["llm"], 3) for report in reports if report.timings_ms],
        "reprediction_ms": round(sum(report.reprediction_ms for report in reports), 3),
        "noted": _noted(reports),
    }


def _noted(reports: Sequence[StepReport]) -> list[dict[str, float]]:
    if not any(report.noted for report in reports):
        return []
    return [{name: round(value, 6) for name, value in report.noted.items()} for report in reports]
