"""``dyslctl analyze allow-points``: the skipping-allow points of one episode (Fig. 8)."""

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
    RunName,
    Seed,
    Set,
    Suite,
)


def allow_points(
    method: OneMethod = None,
    suite: Suite = None,
    episode: Annotated[int | None, typer.Option("--episode", help="Which one, from 0.", show_default=False)] = None,
    seed: Seed = None,
    run: RunName = None,
    config: ConfigFile = None,
    set_: Set = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """How the skipping-allow points move through one episode, with what the camera saw (Fig. 8).

    By default of dysl-paper, the first test episode.
    """
    from dyslctl.cli.output import show
    from dyslctl.cli.steps.allow_points import run_allow_points
    from dyslctl.cli.workspace import enter, layers_of

    given = flags(
        suite=suite,
        seed=seed,
        analyze__episode=episode,
        analyze__methods=None if method is None else [method],
    )
    workspace = enter(run, layers_of(config, set_, given))
    show(run_allow_points(workspace), as_json=as_json)
