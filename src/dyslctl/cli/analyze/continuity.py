"""``dyslctl analyze continuity``: what skipping costs where motion is smooth and where not (Fig. 6)."""

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
)


def continuity(
    method: OneMethod = None,
    ranges: Annotated[
        int | None, typer.Option("--ranges", help="Of continuity, equally wide; default 5.", show_default=False)
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
    """Continuity against the accuracy loss of skipping (Fig. 6).

    The method, by default dysl, skips as much as it can, but only where continuity lies in one range. And which
    signal - continuity, its change, SpecPrune's speed rule, the gripper - tells best where skipping does damage.
    """
    from dyslctl.cli.output import show
    from dyslctl.cli.progress import progress
    from dyslctl.cli.steps.continuity import run_continuity
    from dyslctl.cli.workspace import enter, layers_of

    given = flags(
        suite=suite,
        seed=seed,
        analyze__episodes=episodes,
        analyze__workers=workers,
        analyze__batch=batch,
        analyze__methods=None if method is None else [method],
        analyze__ranges=ranges,
    )
    workspace = enter(run, layers_of(config, set_, given))
    with progress(quiet=quiet) as listener:
        document = run_continuity(workspace, resume=resume, progress=listener)
    show(document, as_json=as_json)
