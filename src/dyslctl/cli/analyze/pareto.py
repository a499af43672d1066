"""``dyslctl analyze pareto``: success against executed layers."""

from __future__ import annotations

from typing import Annotated

import typer

from dyslctl.cli.config import flags
from dyslctl.cli.options import (
    AsJson,
    ConfigFile,
    Debug,
    Quiet,
    Resume,
    RunName,
    Set,
    SideBySide,
    Suite,
    Workers,
    split_names,
    split_numbers,
    split_whole,
)

Compared = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="A,B",
        help="Beside full; default dysl, static, random-skip-adapters, dysl-paper, oracle. The first is compared "
        "with the others.",
        show_default=False,
    ),
]
Budgets = Annotated[
    str | None,
    typer.Option("--budgets", metavar="5,6", help="Mean layers an inference; default 4.5,5,6.", show_default=False),
]
Seeds = Annotated[
    str | None,
    typer.Option("--seeds", metavar="0,1,2", help="Trainings, one each; default 0,1,2.", show_default=False),
]
Episodes = Annotated[
    int | None,
    typer.Option("--episodes", help="Test episodes, the same for every point; default 1000.", show_default=False),
]
TuneEpisodes = Annotated[
    int | None, typer.Option("--tune-episodes", help="Episodes to find dials on; default 200.", show_default=False)
]


def pareto(
    method: Compared = None,
    budgets: Budgets = None,
    seeds: Seeds = None,
    episodes: Episodes = None,
    tune_episodes: TuneEpisodes = None,
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
    """Success against executed layers, over several trainings.

    Every method is trained with every seed where it is not yet, set to every budget on tune episodes, and played on
    the same test episodes. The first method is then compared with the others at equal layers.
    """
    from dyslctl.cli.output import show
    from dyslctl.cli.progress import progress
    from dyslctl.cli.steps.pareto import run_pareto
    from dyslctl.cli.workspace import enter, layers_of

    given = flags(
        suite=suite,
        pareto__methods=split_names(method),
        pareto__budgets=split_numbers(budgets, "--budgets"),
        pareto__seeds=split_whole(seeds, "--seeds"),
        pareto__episodes=episodes,
        pareto__tune_episodes=tune_episodes,
        pareto__batch=batch,
        pareto__workers=workers,
    )
    workspace = enter(run, layers_of(config, set_, given))
    with progress(quiet=quiet) as listener:
        document = run_pareto(workspace, resume=resume, progress=listener)
    show(document, as_json=as_json)
