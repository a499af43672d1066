"""``dyslctl analyze ablation``: one thing at a time is changed."""

from __future__ import annotations

from typing import Annotated

import typer

from dyslctl.cli.config import flags
from dyslctl.cli.options import (
    AsJson,
    ConfigFile,
    Debug,
    ExecutorName,
    Quiet,
    Resume,
    RunName,
    Set,
    SideBySide,
    Suite,
    split_whole,
)

TableName = Annotated[
    str | None,
    typer.Option(
        "--table",
        metavar="NAME|FILE",
        help="4 (default), 5, 6, k, criterion, gripper, chunk, horizon, adapter, dysl, flexidepth, rivals, joint; or a "
        "YAML file of your own.",
        show_default=False,
    ),
]
Layers = Annotated[
    float | None,
    typer.Option(
        "--layers",
        help="Set every cell to so many layers an inference; default: what the table says, else as trained.",
        show_default=False,
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option("--seeds", metavar="0,1,2", help="Trainings of every cell; default 0.", show_default=False),
]
Episodes = Annotated[
    int | None,
    typer.Option("--episodes", help="Test episodes, the same for every cell; default 500.", show_default=False),
]
TuneEpisodes = Annotated[
    int | None, typer.Option("--tune-episodes", help="Episodes to find dials on; default 100.", show_default=False)
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Trainings and cells side by side; default 1.", show_default=False)
]


def ablation(
    table: TableName = None,
    layers: Layers = None,
    seeds: Seeds = None,
    episodes: Episodes = None,
    tune_episodes: TuneEpisodes = None,
    batch: SideBySide = None,
    workers: Workers = None,
    executor: ExecutorName = None,
    suite: Suite = None,
    resume: Resume = False,
    run: RunName = None,
    config: ConfigFile = None,
    set_: Set = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """One table of variants, each trained where it is not yet, all played on the same test episodes.

    Every cell is a method with settings of its own; one of them is the reference that the others are compared with,
    episode by episode. Cells that learn the same share a training.
    """
    from dyslctl.cli.output import show
    from dyslctl.cli.progress import progress
    from dyslctl.cli.steps.ablation import run_ablation
    from dyslctl.cli.workspace import enter, layers_of

    given = flags(
        suite=suite,
        ablation__table=table,
        ablation__layers=layers,
        ablation__seeds=split_whole(seeds, "--seeds"),
        ablation__episodes=episodes,
        ablation__tune_episodes=tune_episodes,
        ablation__batch=batch,
        ablation__workers=workers,
        ablation__executor=executor,
    )
    workspace = enter(run, layers_of(config, set_, given))
    with progress(quiet=quiet) as listener:
        document = run_ablation(workspace, resume=resume, progress=listener)
    show(document, as_json=as_json)
