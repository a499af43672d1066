"""``dyslctl analyze importance``: which part of an episode matters (Fig. 1)."""

from __future__ import annotations

from typing import Annotated

import typer

from dyslctl.cli.config import flags
from dyslctl.cli.options import (
    AsJson,
    ConfigFile,
    Debug,
    OneMethod,
    Quiet,
    Resume,
    RunName,
    Seed,
    Set,
    SideBySide,
    Suite,
    TestEpisodes,
    Workers,
    split_numbers,
)


def importance(
    method: OneMethod = None,
    parts: Annotated[int | None, typer.Option("--parts", help="Of an episode; default 5.", show_default=False)] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            "--noise",
            metavar="0.5,1,2",
            help="Standard deviations of the shift, in normalised actions; default 0.5,1,2.",
            show_default=False,
        ),
    ] = None,
    suite: Suite = None,
    episodes: TestEpisodes = None,
    workers: Workers = None,
    batch: SideBySide = None,
    seed: Seed = None,
    resume: Resume = False,
    run: RunName = None,
    config: ConfigFile = None,
    set_: Set = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Success when one part of every episode is disturbed (Fig. 1).

    Every predicted chunk in that part is shifted at random. The method, by default the full model, plays the same
    initial states undisturbed first: parts are equal shares of that episode.
    """
    from dyslctl.cli.output import show
    from dyslctl.cli.progress import progress
    from dyslctl.cli.steps.importance import run_importance
    from dyslctl.cli.workspace import enter, layers_of

    given = flags(
        suite=suite,
        seed=seed,
        analyze__episodes=episodes,
        analyze__workers=workers,
        analyze__batch=batch,
        analyze__methods=None if method is None else [method],
        analyze__parts=parts,
        analyze__noise=split_numbers(noise, "--noise"),
    )
    workspace = enter(run, layers_of(config, set_, given))
    with progress(quiet=quiet) as listener:
        document = run_importance(workspace, resume=resume, progress=listener)
    show(document, as_json=as_json)
