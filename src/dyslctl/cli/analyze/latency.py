"""``dyslctl analyze latency``: where the time goes (Fig. 10)."""

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


def latency(
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
    """Where the time of one inference goes, in closed loop (Fig. 10).

    Encoder, layers, controllers, adapters, second prediction, head and guidance. Methods as in kept-layers.
    """
    from dyslctl.cli.output import show
    from dyslctl.cli.progress import progress
    from dyslctl.cli.steps.latency import run_latency
    from dyslctl.cli.workspace import enter, layers_of

    given = flags(
        suite=suite,
        seed=seed,
        analyze__episodes=episodes,
        analyze__methods=split_names(method),
    )
    workspace = enter(run, layers_of(config, set_, given))
    with progress(quiet=quiet) as listener:
        document = run_latency(workspace, resume=resume, progress=listener)
    show(document, as_json=as_json)
