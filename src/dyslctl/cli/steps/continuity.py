"""Continuity against the cost of skipping: probe the full model, then skip in one range of continuity at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from dyslctl import methods
from dyslctl.analysis.continuity import Gate, Probe, borders, ranges, rankings
from dyslctl.analysis.signals import K
from dyslctl.cli.steps.study import about, flat, keep, one_method, stage
from dyslctl.cli.workspace import Workspace
from dyslctl.errors import ConfigError
from dyslctl.jobs.episodes import EpisodeRecord
from dyslctl.jobs.progress import Progress
from dyslctl.method_assets import Dial
from dyslctl.report.figures.continuity import figure

STUDY = "continuity"
ANSWERS: Mapping[str, int] = {"dysl": 1, "dysl-paper-controllers": -1, "flexidepth": -1}
"""The methods that decide once a pass and need no second one; 1: they answer a damage, -1: a chance of skipping."""


def run_continuity(workspace: Workspace, *, resume: bool, progress: Progress) -> dict[str, Any]:
    """Play all of it, save everything, and return the result's document.

    Raises:
        ConfigError: If the method cannot be asked to skip as much as it can, or continuity never becomes defined.
        ArtifactError: If its bundle is missing.
    """
    settings, method = workspace.config.analyze, one_method(workspace, "dysl")
    dial = _most_willing(method)
    recipe = replace(workspace.policies([method]), dial=dial.high)
    stand = stage(workspace, STUDY, resume=resume, progress=progress)
    probed = stand.play(method, recipe, f"{method}/probe", Probe(ANSWERS[method]))
    gates = [Gate(low, high) for low, high in pairwise(borders(probed.records, settings.ranges))]
    gates.append(Gate(-math.inf, math.inf))
    gated = {
        gate: stand.play(method, recipe, f"{method}/from{gate.low:g}to{gate.high:g}", gate).records for gate in gates
    }
    rows = [_finite(flat(row)) for row in ranges(probed.records, gated)]
    found = probed.methods[method]
    document = {
        **about(workspace, STUDY),
        "method": method,
        "dial": dial.high,
        "k": K,
        "skipped_layers": _skipped_layers(probed.records),
        "full": {"success_rate": found.success_rate, "success_ci95": found.success_ci95},
        "rows": rows[:-1],
        "everywhere": rows[-1],
        "damaged_share": settings.damaged,
        "signals": [flat(row) for row in rankings(probed.records, settings.damaged, workspace.config.seed)],
    }
    caption = (
        f"Continuity on {workspace.suite.name}: how often, what skipping costs there (Fig. 6), and which signal tells "
        "where skipping does most damage."
    )
    tidy = [{"table": "ranges", **row} for row in rows] + [{"table": "signals", **row} for row in document["signals"]]
    return keep(workspace, STUDY, document, figure(document), caption, tidy)


def _most_willing(method: str) -> Dial:
    dial = methods.method(method).dial
    if method not in ANSWERS or dial is None:
        raise ConfigError(
            f"continuity needs a method that can be told to skip wherever it may: expected {', '.join(ANSWERS)}, "
            f"found '{method}'",
            hint=f"--method {next(iter(ANSWERS))}",
        )
    return dial


def _skipped_layers(probed: Sequence[EpisodeRecord]) -> float:
    return float(np.mean([note["skipped_layers"] for record in probed for note in record.noted]))


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity: an open end of a range is ``None``."""
    return {key: None if isinstance(value, float) and math.isinf(value) else value for key, value in row.items()}
