"""``dyslctl analyze tokens``: the visual tokens that stay through one episode (SpecPrune-VLA, Figures 2 and 14)."""

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


def tokens(
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
    """Which visual tokens stay through one episode, drawn over every camera view.

    By default those of specprune, in the first test episode. Beside each inference a full pass tells which tokens are
    important, and how scattered the attention of each layer is.
    """
    from dyslctl.cli.output import show
    from dyslctl.cli.steps.tokens import run_tokens
    from dyslctl.cli.workspace import enter, layers_of

    given = flags(
        suite=suite,
        seed=seed,
        analyze__episode=episode,
        analyze__methods=None if method is None else [method],
    )
    workspace = enter(run, layers_of(config, set_, given))
    show(run_tokens(workspace), as_json=as_json)
