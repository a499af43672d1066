"""``dyslctl bench``: latency, measured on this machine, predicted for another, published beside both."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dyslctl.cli.config import flags
from dyslctl.cli.options import (
    AsJson,
    ConfigFile,
    Debug,
    FailIf,
    Methods,
    Quiet,
    RunName,
    Set,
    Suite,
    Summary,
    complete_devices,
    split_names,
)


def bench(
    device: Annotated[
        str, typer.Option("--device", help="cpu, cuda, or a device to predict for.", autocompletion=complete_devices)
    ] = "cpu",
    size: Annotated[
        str | None, typer.Option("--as", help="Predict for this published size of the backbone, or 'own'.")
    ] = None,
    method: Methods = None,
    fail_if: FailIf = None,
    summary: Summary = None,
    suite: Suite = None,
    run: RunName = None,
    config: ConfigFile = None,
    set_: Set = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure latency here, or predict it for a device.

    Methods are interleaved at batch 1 in one process. A prediction scales what the methods did here by a calibrated
    roofline model, and stands beside the published rows.
    """
    from dyslctl.cli.output import conclude
    from dyslctl.cli.progress import progress
    from dyslctl.cli.steps.bench import run_bench
    from dyslctl.cli.workspace import enter, layers_of
    from dyslctl.jobs.thresholds import parse_condition

    for condition in fail_if or ():
        parse_condition(condition)
    workspace = enter(run, layers_of(config, set_, flags(suite=suite, bench__methods=split_names(method))))
    with progress(quiet=quiet) as listener:
        document = run_bench(workspace, device, size, listener)
    conclude(document, _numbers(document), fail_if or (), summary, as_json=as_json)


def _numbers(document: dict[str, Any]) -> dict[str, Any]:
    """What ``--fail-if`` may name: the headline figures, and our own rows by method. Published rows cannot fail."""
    rows = {row["method"]: row for row in document["rows"] if row["source"] != "published"}
    return {key: document[key] for key in ("skip_efficiency", "controller_overhead")} | rows
