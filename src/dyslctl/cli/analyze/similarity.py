"""``dyslctl analyze similarity``: which layers can be spared (Fig. 3)."""

from __future__ import annotations

from dyslctl.cli.config import flags
from dyslctl.cli.options import (
    AsJson,
    ConfigFile,
    Debug,
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


def similarity(
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
    """Similarity of the layers, and success without one of them (Fig. 3).

    The similarities are those that profile measured. The model then plays without one layer at a time, untrained.
    """
    from dyslctl.cli.output import show
    from dyslctl.cli.progress import progress
    from dyslctl.cli.steps.similarity import run_similarity
    from dyslctl.cli.workspace import enter, layers_of

    given = flags(
        suite=suite,
        seed=seed,
        analyze__episodes=episodes,
        analyze__workers=workers,
        analyze__batch=batch,
    )
    workspace = enter(run, layers_of(config, set_, given))
    with progress(quiet=quiet) as listener:
        document = run_similarity(workspace, resume=resume, progress=listener)
    show(document, as_json=as_json)
