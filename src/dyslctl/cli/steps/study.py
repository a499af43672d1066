"""What the studies of ``dyslctl analyze`` share: the stage that their episodes play on, and how a result is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyslctl.artifacts.files import atomic_write
from dyslctl.cli.steps.calibrate import SIDE_BY_SIDE
from dyslctl.cli.workspace import Workspace
from dyslctl.errors import ConfigError
from dyslctl.jobs.closed_loop import Stage
from dyslctl.jobs.progress import Progress
from dyslctl.report import plots
from dyslctl.report.tidy import csv_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]


def folder(workspace: Workspace, study: str) -> Path:
    """Where the study of the run's suite keeps its files."""
    return workspace.run.path / "analysis" / study / workspace.suite.name


def stage(workspace: Workspace, study: str, *, resume: bool, progress: Progress) -> Stage:
    """Where the episodes of ``study`` play, all from the same initial states."""
    settings, suite = workspace.config.analyze, workspace.suite
    return Stage(
        suite,
        suite.episodes(settings.split, settings.episodes),
        folder(workspace, study) / "episodes",
        resume,
        settings.workers,
        settings.batch or SIDE_BY_SIDE,
        progress,
    )


def one_method(workspace: Workspace, default: str) -> str:
    """The method of a study that looks at one.

    Raises:
        ConfigError: If several were given.
    """
    names = workspace.config.analyze.methods or (default,)
    if len(names) > 1:
        raise ConfigError(f"--method: expected one method, found {', '.join(names)}")
    return names[0]


def about(workspace: Workspace, study: str) -> dict[str, Any]:
    """What every study's document begins with."""
    settings, backbone = workspace.config.analyze, workspace.backbone.load()
    return {
        "schema": f"dyslctl.{study}/1",
        "suite": workspace.suite.name,
        "split": settings.split,
        "episodes": settings.episodes,
        "seed": workspace.config.seed,
        "num_layers": backbone.spec.num_layers,
        "dtype": str(backbone.dtype).removeprefix("torch."),
    }


def flat(row: Any) -> dict[str, Any]:
    """A dataclass as one flat row, the fields of those inside it beside its own."""
    fields = asdict(row)
    return {key: value for name, field in fields.items() for key, value in _spread(name, field)}


def _spread(name: str, field: Any) -> Sequence[tuple[str, Any]]:
    return list(field.items()) if isinstance(field, dict) else [(name, field)]


def keep(
    workspace: Workspace, study: str, document: dict[str, Any], figure: Figure, caption: str, rows: Sequence[Row]
) -> dict[str, Any]:
    """Write the document, ``rows`` as tidy CSV, and the figure as PNG and SVG; return the document with their places.

    Raises:
        EnvironmentMismatch: If they cannot be written.
    """
    out, name = folder(workspace, study), f"{study}_{workspace.suite.name}"
    atomic_write(out / f"{study}.csv", csv_text(rows))
    path = plots.save(figure, workspace.run.report / f"{name}.png")
    plots.save(figure, workspace.run.report / f"{name}.svg")
    document = {**document, "csv": str(out / f"{study}.csv"), "figures": {caption: str(path)}}
    workspace.keep(f"{study}-{workspace.suite.name}", document, out)
    return document
