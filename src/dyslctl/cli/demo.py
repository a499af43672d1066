"""``dyslctl demo``: the whole path on the embedded default, small enough for a coffee break on two cores."""

from __future__ import annotations

import time
from typing import Any

import typer

from dyslctl.cli.config import Layer, flags
from dyslctl.cli.options import AsJson, BackboneName, ConfigFile, Debug, Quiet, RunName, Set

SIZES: Layer = (
    "the demo",
    {
        "model": {"name": "openvla-oft"},
        "profile": {"samples": 256},
        "distill": {"episodes": 60, "steps": 250},
        "calibrate": {"episodes": 60},
        "eval": {"episodes": 20, "target_episodes": 8},
        "bench": {"iterations": 40},
    },
)
"""Everything is bounded by counts, never by a clock: the same demo gives the same result on every machine."""

DEVICES = ("cpu", "orin")


def demo(
    backbone: BackboneName = None,
    run: RunName = None,
    config: ConfigFile = None,
    set_: Set = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Go the whole way, for real, on the embedded model.

    Profile, distill in two stages, calibrate, evaluate and bench; ends with one table and one HTML report.
    """
    from dyslctl.cli.output import show
    from dyslctl.cli.workspace import begin, layers_of
    from dyslctl.report.page import gather, summary, write_report

    started = time.monotonic()
    workspace = begin(run or "demo", [SIZES, *layers_of(config, set_, flags(model__name=backbone))])
    stages = _work(workspace, quiet=quiet)
    results = gather(workspace.run)
    path, seconds = write_report(results), time.monotonic() - started
    document = {"schema": "dyslctl.demo/1", **stages, "report_path": str(path), "seconds": seconds}
    show(document, [summary(results)], as_json=as_json)
    if not as_json:
        typer.echo(f"report: {path}  ({seconds / 60:.1f} min)")


def _work(workspace: Any, *, quiet: bool) -> dict[str, Any]:
    """Every command in turn, on one loaded backbone."""
    from dyslctl.cli.output import note
    from dyslctl.cli.progress import progress
    from dyslctl.cli.steps.bench import run_bench
    from dyslctl.cli.steps.distill import in_two_stages, run_distill, run_distill_to_budget
    from dyslctl.cli.steps.evaluate import run_eval
    from dyslctl.cli.steps.profile import run_profile

    done: dict[str, Any] = {}
    with progress(quiet=quiet) as listener:
        note("1/5 profile: which layers are informative?", quiet=quiet)
        done["profile"] = run_profile(workspace, listener)
        if in_two_stages(workspace.config.distill):
            note("2/5 distill, stage 1: adapters stand in for layers", quiet=quiet)
            done["distill_stage1"] = run_distill(workspace, [1], resume=False, progress=listener)
        note("3/5 distill, stage 2: a planner learns when they can, and how much to skip is found", quiet=quiet)
        done["distill_stage2"] = run_distill_to_budget(workspace, [2], resume=False, progress=listener)
        note("4/5 eval: the same episodes with and without skipping", quiet=quiet)
        done["eval"] = run_eval(workspace, resume=False, progress=listener)
        for device in DEVICES:
            note(f"5/5 bench: latency on {device}", quiet=quiet)
            done[f"bench_{device}"] = run_bench(workspace, device, None, listener)
    return done
