"""The command line: flags -> job -> report. One small file a command; no torch until a command needs it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated

import typer

from dyslctl import __version__
from dyslctl.cli import analyze, bench, calibrate, demo, demos, distill, doctor, eval, inspect, plugins, profile, report
from dyslctl.cli.command import Command

EPILOG = "Exit codes: 0 ok, 1 internal error, 2 usage, 3 plugin or environment, 4 artifact, 5 threshold not met."

app = typer.Typer(
    name="dyslctl",
    help="Dynamic-static layer skipping (DySL-VLA) for Vision-Language-Action models.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS: dict[str, Callable[..., None]] = {
    "profile": profile.profile,
    "distill": distill.distill,
    "calibrate": calibrate.calibrate,
    "eval": eval.evaluate,
    "bench": bench.bench,
    "demos": demos.demos,
    "demo": demo.demo,
    "report": report.report,
    "inspect": inspect.inspect,
    "doctor": doctor.doctor,
    "plugins": plugins.plugins,
}
for name, function in COMMANDS.items():
    app.command(name, cls=Command)(function)
app.add_typer(analyze.app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dyslctl {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Dynamic-static layer skipping (DySL-VLA) for Vision-Language-Action models."""


def main() -> None:
    """The ``dyslctl`` script."""
    # Before torch is imported. By default an OpenMP thread that waits spins for seconds, and so takes the core from the
    # one it waits for as soon as anything else runs on the machine: a batch-1 pass then takes a hundred times as long.
    # Not spinning at all doubles its time on a quiet machine. A short spin, then sleep, has neither cost.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    app()
