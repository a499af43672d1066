"""``dyslctl calibrate``: a trained method's dial, set to a budget of layers, milliseconds or lost success."""

from __future__ import annotations

from typing import Annotated

import typer

from dyslctl.cli.config import flags
from dyslctl.cli.options import (
    AsJson,
    ConfigFile,
    DataMap,
    Debug,
    ExecuteHorizon,
    HeldOut,
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
from dyslctl.errors import ConfigError


def calibrate(
    method: Annotated[
        str | None,
        typer.Option("--method", help="Whose dial: dysl (default), dysl-paper, flexidepth(-tokens), deer or mole."),
    ] = None,
    target_layers: TargetLayers = None,
    target_ms: TargetMs = None,
    max_success_drop: MaxSuccessDrop = None,
    episodes: Annotated[
        int | None, typer.Option("--episodes", help="Of the tune split; default 200 subtasks.", show_default=False)
    ] = None,
    batch: SideBySide = None,
    workers: Workers = None,
    suite: Suite = None,
    data: HeldOut = None,
    data_map: DataMap = None,
    execute_horizon: ExecuteHorizon = None,
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
    comes from. Give exactly one target. What it does on other episodes, eval says. With --data nothing acts: the target
    is --target-layers, or else a predicted damage.
    """
    from dyslctl.cli.output import show
    from dyslctl.cli.progress import progress
    from dyslctl.cli.steps.calibrate import run_calibrate
    from dyslctl.cli.steps.offline import run_calibrate_offline
    from dyslctl.cli.workspace import enter, layers_of

    _check_companion(data, data_map)
    given = flags(
        suite=suite,
        calibrate__method=method,
        calibrate__target_layers=target_layers,
        calibrate__target_ms=target_ms,
        calibrate__max_success_drop=max_success_drop,
        calibrate__episodes=episodes,
        calibrate__batch=batch,
        calibrate__workers=workers,
        data__path=data,
        data__map=data_map,
        execute_horizon=execute_horizon,
    )
    workspace = enter(run, layers_of(config, set_, given))
    with progress(quiet=quiet) as listener:
        if data is None:
            document = run_calibrate(workspace, resume=resume, progress=listener)
        else:
            document = run_calibrate_offline(workspace, listener)
    show(document, as_json=as_json)


def _check_companion(data: str | None, data_map: str | None) -> None:
    """Without ``--data`` nothing would heed what says how to read it."""
    if data is None and data_map is not None:
        raise ConfigError(
            "--data-map describes recorded episodes, but without --data the dial is set in closed loop",
            hint=f"--data PATH --data-map {data_map}",
        )
