"""``dyslctl profile``: which layers are informative -> skip profile and figures."""

from __future__ import annotations

from typing import Annotated

import typer

from dyslctl.cli.config import flags
from dyslctl.cli.options import (
    AsJson,
    BackboneName,
    Checkpoint,
    ConfigFile,
    Data,
    DataMap,
    Debug,
    ExecuteHorizon,
    Quiet,
    RunName,
    Seed,
    Set,
    Suite,
    data_flags,
)


def profile(
    backbone: BackboneName = None,
    checkpoint: Checkpoint = None,
    suite: Suite = None,
    samples: Annotated[int | None, typer.Option("--samples", help="Observations to measure on.")] = None,
    ratio: Annotated[
        float | None, typer.Option("--ratio", help="Share of static layers, 0 to 1; default: 0.2, at least 4 layers.")
    ] = None,
    data: Data = None,
    data_map: DataMap = None,
    execute_horizon: ExecuteHorizon = None,
    seed: Seed = None,
    run: RunName = None,
    config: ConfigFile = None,
    set_: Set = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure which layers are informative; start a run.

    The run is named after BACKBONE; its skip profile lists the static layers and may be edited. With --data the layers
    are measured on recorded episodes, and distill goes on with them.
    """
    from dyslctl.cli.output import show
    from dyslctl.cli.progress import progress
    from dyslctl.cli.steps.profile import run_profile
    from dyslctl.cli.workspace import begin, layers_of

    given = flags(
        model__name=backbone,
        model__checkpoint=checkpoint,
        suite=suite,
        seed=seed,
        profile__samples=samples,
        profile__ratio=ratio,
    )
    workspace = begin(run, [*layers_of(config, set_, given), data_flags("profile", data, data_map, execute_horizon)])
    with progress(quiet=quiet) as listener:
        document = run_profile(workspace, listener)
    show(document, as_json=as_json)
