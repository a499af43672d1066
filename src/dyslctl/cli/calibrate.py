"""``dyslctl calibrate``: a trained method's dial, set to a budget of layers, milliseconds or lost success."""

from __future__ import annotations

from typing import Annotated

import typer

from dyslctl.cli.config import flags
from dyslctl.cli.options import (
    AsJson,
    ConfigFile,
    Debug,
    MaxSuccessDrop,
    Quiet,
    Resume,
    RunName,
    Set,
    SideBySide,
    Suite,
    TargetLayers,
    TargetMs,
    Workers,
)


def calibrate(
    method: Annotated[str | None, typer.Option("--method", help="Whose dial: dysl (default) or dysl-paper.")] = None,
    target_layers: TargetLayers = None,
    target_ms: TargetMs = None,
    max_success_drop: MaxSuccessDrop = None,
    episodes: Annotated[
        int | None, typer.Option("--episodes", help="Of the tune split; default 200.", show_default=False)
    ] = None,
    batch: SideBySide = None,
    workers: Workers = None,
    suite: Suite = None,
    resume: Resume = False,
    run: RunName = None,
    config: ConfigFile = None,
    set_: Set = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Set how much a trained method skips, in closed loop.

    Dials are tried on the same tune episodes until one meets the target; it then stands in the bundle, with where it
    comes from. Give exactly one target. What it does on other episodes, eval says.
    """
    from dyslctl.cli.output import show
    from dyslctl.cli.progress import progress
    from dyslctl.cli.steps.calibrate import run_calibrate
    from dyslctl.cli.workspace import enter, layers_of

    given = flags(
        suite=suite,
        budget__method=method,
        budget__target_layers=target_layers,
        budget__target_ms=target_ms,
        budget__max_success_drop=max_success_drop,
        budget__episodes=episodes,
        budget__batch=batch,
        budget__workers=workers,
    )
    workspace = enter(run, layers_of(config, set_, given))
    with progress(quiet=quiet) as listener:
        document = run_calibrate(workspace, resume=resume, progress=listener)
    show(document, as_json=as_json)
