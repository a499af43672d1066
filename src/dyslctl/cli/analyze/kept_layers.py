"""``dyslctl analyze kept-layers``: how many layers inferences run (Fig. 4)."""

from __future__ import annotations

from dyslctl.cli.config import flags
from dyslctl.cli.options import (
    AsJson,
    ConfigFile,
    Debug,
    Methods,
    Quiet,
    Resume,
    RunName,
    Seed,
    Set,
    Suite,
    TestEpisodes,
    split_names,
)


def kept_layers(
    method: Methods = None,
    suite: Suite = None,
    episodes: TestEpisodes = None,
    seed: Seed = None,
    resume: Resume = False,
    run: RunName = None,
    config: ConfigFile = None,
    set_: Set = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """How many layers inferences run, and how long those take (Fig. 4).

    By default full, dysl, dysl-paper and dysl-paper-controllers, as far as they are trained. They are interleaved,
    one episode at a time, so that times compare.
    """
    from dyslctl.cli.output import show
    from dyslctl.cli.progress import progress
    from dyslctl.cli.steps.kept_layers import run_kept_layers
    from dyslctl.cli.workspace import enter, layers_of

    given = flags(
        suite=suite,
        seed=seed,
        analyze__episodes=episodes,
        analyze__methods=split_names(method),
    )
    workspace = enter(run, layers_of(config, set_, given))
    with progress(quiet=quiet) as listener:
        document = run_kept_layers(workspace, resume=resume, progress=listener)
    show(document, as_json=as_json)
