"""``dyslctl bench``: latency, measured on this machine, predicted for another, published beside both."""

from __future__ import annotations

from functools import partial
from pathlib import Path
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
    split_whole,
)

DeviceName = Annotated[
    str, typer.Option("--device", help="cpu, cuda, or a device to predict for.", autocompletion=complete_devices)
]
Size = Annotated[str | None, typer.Option("--as", help="Predict for this published size of the backbone, or 'own'.")]
Backend = Annotated[
    str | None,
    typer.Option("--backend", help="What runs the layers: eager, packed or packed-int8.", show_default=False),
]
Compare = Annotated[
    list[str] | None,
    typer.Option(
        "--compare",
        metavar="A,B",
        help="Time the full pass beside others of the same weights: eager, transformers, transformers-compiled.",
    ),
]
Tokens = Annotated[
    str | None,
    typer.Option(
        "--tokens",
        metavar="605,384",
        help="The full pass on so many tokens too, measured or predicted: what pruning could save at most.",
        show_default=False,
    ),
]
Baseline = Annotated[
    Path | None,
    typer.Option("--baseline", metavar="FILE", help="An earlier result of bench on this machine, to compare with."),
]
MaxRegress = Annotated[
    str | None,
    typer.Option("--max-regress", metavar="PERCENT", help="Exit 5 if any time of --baseline grew by more, e.g. 5%."),
]

FIGURES = ("skip_efficiency", "controller_overhead")
"""At the top of the document, of the whole comparison."""


def bench(
    device: DeviceName = "cpu",
    size: Size = None,
    method: Methods = None,
    backend: Backend = None,
    compare: Compare = None,
    tokens: Tokens = None,
    fail_if: FailIf = None,
    baseline: Baseline = None,
    max_regress: MaxRegress = None,
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
    from dyslctl.cli.steps.bench import compared_with, run_bench
    from dyslctl.cli.workspace import enter, layers_of
    from dyslctl.errors import ConfigError
    from dyslctl.jobs.fail_conditions import check_conditions, check_paths
    from dyslctl.jobs.regression import changes, check_regression, parse_percent, read_baseline

    if max_regress is not None and baseline is None:
        raise ConfigError("--max-regress: expected a --baseline to compare with", hint="dyslctl bench --json > FILE")
    limit = None if max_regress is None else parse_percent(max_regress)
    before = None if baseline is None else read_baseline(baseline)
    given = flags(
        suite=suite,
        bench__methods=split_names(method),
        bench__compare=split_names(compare),
        bench__tokens=split_whole(tokens, "--tokens"),
        model__backend=backend,
    )
    workspace = enter(run, layers_of(config, set_, given))
    asked = workspace.config.bench
    compared = compared_with(asked.compare, workspace.config.model.backend)
    coming = (*FIGURES, "full", *asked.methods, *(f"vs-{name}" for name in compared))
    check_paths(fail_if or (), dict.fromkeys(coming, ()))
    with progress(quiet=quiet) as listener:
        document = run_bench(workspace, device, size, listener)
    verdicts = [partial(check_conditions, fail_if or (), _numbers(document))]
    if before is not None:
        changed = changes(before, document)
        document["changes"] = [change.as_dict() for change in changed]
        verdicts += [] if limit is None else [partial(check_regression, changed, limit)]
    conclude(document, verdicts, summary, as_json=as_json)


def _numbers(document: dict[str, Any]) -> dict[str, Any]:
    """What ``--fail-if`` may name: the headline figures, our own rows by method, and ``vs-NAME`` of ``--compare``.

    Published rows cannot fail.
    """
    compared = {f"vs-{row['against']}": row for row in document.get("compared", [])}
    rows = {row["method"]: row for row in document["rows"] if row["source"] != "published"}
    return {key: document[key] for key in FIGURES} | rows | compared
