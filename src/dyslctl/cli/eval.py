"""``dyslctl eval``: success with and without skipping, on the same episodes."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from dyslctl.cli.config import flags
from dyslctl.cli.options import (
    AsJson,
    ConfigFile,
    Debug,
    EpisodeTimeout,
    ExecutorName,
    FailIf,
    Methods,
    Quiet,
    Resume,
    RunName,
    Seed,
    Set,
    Suites,
    Summary,
    Workers,
    split_names,
)

Episodes = Annotated[int | None, typer.Option("--episodes", help="Initial states, each run by every method.")]
Split = Annotated[str | None, typer.Option("--split", help="Of the initial states: train, tune or test.")]
Batch = Annotated[
    int | None,
    typer.Option(
        "--batch",
        help="Episodes side by side in each process, computed together; with more than one, nothing is timed.",
        show_default=False,
    ),
]
Video = Annotated[
    str | None,
    typer.Option(
        "--video",
        metavar="first|failed|all",
        help="Film the first episode of each task, those that fail, or all; default: none.",
    ),
]


def evaluate(
    method: Methods = None,
    suite: Suites = None,
    episodes: Episodes = None,
    split: Split = None,
    workers: Workers = None,
    executor: ExecutorName = None,
    batch: Batch = None,
    episode_timeout: EpisodeTimeout = None,
    video: Video = None,
    seed: Seed = None,
    resume: Resume = False,
    fail_if: FailIf = None,
    summary: Summary = None,
    run: RunName = None,
    config: ConfigFile = None,
    set_: Set = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare methods on the same episodes.

    Success with Wilson intervals and a paired test, executed layers, and the latency of the LLM part. On several suites
    also one table of all, beside published rows, in report/suites.md of the run.
    """
    from dyslctl.cli.output import conclude
    from dyslctl.cli.progress import progress
    from dyslctl.cli.steps.evaluate import run_eval
    from dyslctl.cli.steps.suites import run_suites
    from dyslctl.cli.workspace import enter, layers_of
    from dyslctl.jobs.fail_conditions import check_conditions, check_paths
    from dyslctl.jobs.summary import SUMMARY_KEYS, require_played

    suites = list(dict.fromkeys(split_names(suite) or ()))
    given = flags(
        suite=suites[0] if suites else None,
        seed=seed,
        eval__methods=split_names(method),
        eval__episodes=episodes,
        eval__split=split,
        eval__workers=workers,
        eval__executor=executor,
        eval__batch=batch,
        eval__episode_timeout=episode_timeout,
        eval__video=video,
    )
    workspace = enter(run, layers_of(config, set_, given))
    check_paths(fail_if or (), dict.fromkeys(workspace.config.eval.methods, SUMMARY_KEYS))
    with progress(quiet=quiet) as listener:
        if len(suites) > 1:
            document = run_suites(workspace, suites, resume=resume, progress=listener)
        else:
            document = run_eval(workspace, resume=resume, progress=listener)
    results = document.get("suites", {"": document})
    verdicts = [partial(check_conditions, fail_if or (), found["methods"], on) for on, found in results.items()]
    conclude(document, verdicts, summary, as_json=as_json)
    for on, found in results.items():
        require_played(found["methods"], on)
