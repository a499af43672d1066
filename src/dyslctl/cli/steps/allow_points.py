"""How the skipping-allow points move through one episode."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dyslctl.analysis.allow_points import Trace, trace
from dyslctl.cli.steps.study import about, keep, one_method
from dyslctl.cli.workspace import Workspace
from dyslctl.report.figures.allow_points import figure

STUDY = "allow-points"


def run_allow_points(workspace: Workspace) -> dict[str, Any]:
    """Play the episode, save everything, and return the result's document.

    Raises:
        ConfigError: If the method has no allow points.
        ArtifactError: If its bundle is missing.
    """
    settings, suite, method = workspace.config.analyze, workspace.suite, one_method(workspace, "dysl-paper")
    spec = suite.episodes(settings.split, settings.episode + 1)[settings.episode]
    found = trace(workspace.policies([method]).factory(method)(), suite, spec)
    document = {**about(workspace, STUDY), "episodes": 1, "method": method, **_described(found)}
    caption = f"Skipping-allow points in episode {spec.index} of {suite.name}, {spec.task} (Fig. 8)."
    rows = [
        {key: value for key, value in moment.items() if key != "points"}
        | {f"point_{segment}": point for segment, point in enumerate(moment["points"])}
        for moment in document["moments"]
    ]
    return keep(workspace, STUDY, document, figure(document, found.frames), caption, rows)


def _described(found: Trace) -> dict[str, Any]:
    return {
        "episode": found.spec.index,
        "task": found.spec.task,
        "instruction": found.instruction,
        "solved": found.solved,
        "steps": found.steps,
        "segments": [list(layers) for layers in found.segments],
        "eta_1": found.eta_1,
        "eta_2": found.eta_2,
        "moments": [asdict(moment) for moment in found.moments],
    }
