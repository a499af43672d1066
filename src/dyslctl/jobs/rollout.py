"""Evaluate policies on the same episodes, resumably.

``<out>/manifest.json`` says what is evaluated, ``<out>/episodes.jsonl`` holds one line an episode and method. In one
process, one at a time, all methods run episode 0, then all run episode 1, ...: whatever the machine does meanwhile hits
them alike, so that their latencies compare. Episodes are seeded one by one, so the order does not matter for anything
else.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from dyslctl.artifacts.files import append_jsonl, make_folder, read_json, read_jsonl, write_json, write_jsonl
from dyslctl.artifacts.fingerprint import environment
from dyslctl.artifacts.lock import locked
from dyslctl.artifacts.manifest import check_same
from dyslctl.errors import ConfigError, PluginError
from dyslctl.jobs.episodes import RESTART, EpisodeRecord
from dyslctl.jobs.executor import LOCAL, Executor
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.jobs.statistics import wilson
from dyslctl.jobs.summary import EvaluationResult, summarize
from dyslctl.jobs.video import Filming, Which
from dyslctl.jobs.workers import Placement, Policies, play
from dyslctl.suite import EpisodeSpec, TaskSuite

SCHEMA = "dyslctl.episodes/2"
MAX_EQUAL_ERRORS = 3
MANIFEST = "manifest.json"
EPISODES = "episodes.jsonl"
VIDEOS = "videos"
SPEED = ("cpu", "cpu_count", "threads")
"""What of the environment makes an inference slower or faster, and no other one."""


def evaluate(
    suite: TaskSuite,
    policies: Policies,
    episodes: Sequence[EpisodeSpec],
    out: Path,
    *,
    about: Mapping[str, Any] | None = None,
    resume: bool = False,
    workers: int = 1,
    batch: int = 1,
    episode_timeout: float | None = None,
    video: Which | None = None,
    executor: Executor = LOCAL,
    progress: Progress = NO_PROGRESS,
    description: str = "episodes",
) -> EvaluationResult:
    """Run every method on every episode.

    Args:
        suite: Whose episodes these are.
        policies: Method name -> how to make its policy. With several workers they are pickled, and each worker makes
            its own.
        episodes: The initial states, of one split; equal for all methods.
        out: Folder of manifest and episodes.
        about: What else the results depend on (fingerprints, seed, renderer). Kept in the manifest; must be equal to
            resume.
        resume: Go on with what ``out`` holds, of as many episodes or fewer; otherwise it is started anew. Crashed
            episodes run again.
        workers: Processes. More than one is faster, but their latencies do not compare.
        batch: Episodes that run side by side in each process, their inferences computed together. More than one is
            faster, but nothing is timed, and results may differ by rounding.
        episode_timeout: Seconds after which an episode counts as crashed, the start of its simulator included. With
            one, a single worker has a process of its own as well, whose crash is survived.
        video: Episodes to film, of those that are played now; the videos go to ``<out>/videos``.
        executor: Where the workers are; results do not depend on it.
        progress: Listener; one piece is one episode of one method.
        description: What the listener calls this.

    Raises:
        ConfigError: If there is nothing to evaluate.
        ArtifactError: If ``out`` holds an evaluation of something else, or a damaged one.
        EnvironmentMismatch: If ``out`` cannot be written, another process evaluates there, worker processes die as they
            start, or videos cannot be made.
        PluginError: If a method crashes with the same error three times in a row.
    """
    if not policies or not episodes:
        raise ConfigError("nothing to evaluate: expected at least one method and one episode")
    place = Placement(workers, batch, episode_timeout, executor)
    filming = None if video is None else Filming.of(video, episodes, out / VIDEOS)
    manifest = _manifest(suite, list(policies), episodes, {"workers": workers, "batch": batch}, about or {})
    with _alone(out):
        log = _EpisodeLog(out, manifest, episodes, resume)
        tasks = [(spec, method) for spec in episodes for method in log.missing(list(policies), spec)]
        progress.start(len(episodes) * len(policies), description)
        progress.advance(len(log.records))
        try:
            with closing(play(suite, policies, tasks, place, filming)) as records:
                for record in records:
                    log.append(record)
                    progress.advance(1, **log.running_success(record.method))
        finally:
            progress.close()
            if filming is not None:
                filming.sweep()
    kept = list(log.records.values())
    return summarize(suite.name, episodes[0].split, len(episodes), list(policies), kept, suite.max_score)


def _alone(out: Path) -> AbstractContextManager[None]:
    """Nobody else writes into ``out``: episodes of two evaluations in one file could not be told apart."""
    return locked(out.with_name(f"{out.name}.lock"), f"{out} is being evaluated", "evaluate in another run (--run)")


def discard(out: Path) -> None:
    """Forget the evaluation in ``out``, if there is one: its manifest first, so that no part of it is ever resumed.

    Raises:
        EnvironmentMismatch: If another process evaluates there.
    """
    with _alone(out):
        _remove(out)


def _remove(out: Path) -> None:
    for name in (MANIFEST, EPISODES):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / VIDEOS, ignore_errors=True)


def videos(out: Path) -> list[Path]:
    """The videos of the evaluation in ``out``, also those made before it was resumed."""
    return sorted((out / VIDEOS).glob("*/*.mp4"))


class _EpisodeLog:
    """Manifest and episodes of one evaluation on disk."""

    def __init__(self, out: Path, manifest: dict[str, Any], episodes: Sequence[EpisodeSpec], resume: bool) -> None:
        self.path = make_folder(out) / EPISODES
        self.records: dict[tuple[str, int], EpisodeRecord] = {}
        self._errors: defaultdict[str, list[str | None]] = defaultdict(list)
        if resume and (out / MANIFEST).exists():
            then = _extended(read_json(out / MANIFEST), episodes)
            what = f"cannot resume {out}: it evaluates something else"
            check_same(_without_speed(then), _without_speed(manifest), what, RESTART)
            records = (EpisodeRecord.of(row, self.path) for row in read_jsonl(self.path))
            self.records = {record.key: record for record in records if record.done}
        else:
            _remove(out)
        # Episodes first: a kill between the two must not leave old episodes under a new manifest.
        write_jsonl(self.path, [record.as_dict() for record in self.records.values()])
        write_json(out / MANIFEST, manifest)

    def missing(self, methods: Sequence[str], spec: EpisodeSpec) -> list[str]:
        """The methods that have not finished ``spec``, each episode beginning with another one."""
        start = spec.index % len(methods)
        rotated = [*methods[start:], *methods[:start]]
        return [method for method in rotated if (method, spec.index) not in self.records]

    def running_success(self, method: str) -> dict[str, float]:
        """The success rate of ``method`` so far, with the ends of its Wilson interval; nothing before an episode."""
        done = [record.success for record in self.records.values() if record.method == method and record.done]
        if not done:
            return {}
        low, high = wilson(sum(done), len(done))
        return {method: sum(done) / len(done), f"{method}_low": low, f"{method}_high": high}

    def append(self, record: EpisodeRecord) -> None:
        """Keep ``record``; give up when a method keeps crashing in the same way."""
        append_jsonl(self.path, record.as_dict())
        self.records[record.key] = record
        recent = self._errors[record.method] = [*self._errors[record.method], record.error][-MAX_EQUAL_ERRORS:]
        if recent == [recent[0]] * MAX_EQUAL_ERRORS and recent[0] is not None:
            raise PluginError(
                f"'{record.method}' crashed {MAX_EQUAL_ERRORS} times in a row, last in episode {record.index} "
                f"({record.task}): {record.error}",
                hint="after the fix, --resume runs the crashed episodes again",
            )


def _manifest(
    suite: TaskSuite,
    methods: list[str],
    episodes: Sequence[EpisodeSpec],
    how: Mapping[str, int],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    manifest = {
        "schema": SCHEMA,
        "suite": suite.name,
        "split": episodes[0].split,
        **_identity(episodes),
        "methods": methods,
        "execute_horizon": suite.execute_horizon,
        "max_steps": suite.max_steps,
        "simulator": dict(suite.identity()),
        **how,
        "about": dict(about),
        "environment": environment().as_dict(),
    }
    manifest_as_read: dict[str, Any] = json.loads(json.dumps(manifest))
    return manifest_as_read


def _without_speed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Of episodes that ran side by side, what they depend on: nobody timed them, so any machine may go on."""
    if manifest.get("batch") == 1:
        return dict(manifest)
    told = manifest.get("environment", {})
    return {**manifest, "environment": {key: value for key, value in told.items() if key not in SPEED}}


def _identity(episodes: Sequence[EpisodeSpec]) -> dict[str, Any]:
    specs = json.dumps([asdict(spec) for spec in episodes]).encode()
    return {"episodes": len(episodes), "episodes_sha256": sha256(specs).hexdigest()}


def _extended(then: Mapping[str, Any], episodes: Sequence[EpisodeSpec]) -> dict[str, Any]:
    """The manifest ``then``; as if of all ``episodes``, if its own are the first of them: more may be asked for."""
    first = _identity(episodes[: then.get("episodes")])
    return {**then, **_identity(episodes)} if first.items() <= then.items() else dict(then)
