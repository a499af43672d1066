"""How many layers inferences keep, and what that takes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dyslctl.analysis.kept_layers import kept_layers
from dyslctl.cli.steps.study import about, keep
from dyslctl.cli.steps.timed import outcomes, timed_episodes
from dyslctl.cli.workspace import Workspace
from dyslctl.jobs.progress import Progress
from dyslctl.report.figures.kept_layers import figure

STUDY = "kept-layers"


def run_kept_layers(workspace: Workspace, *, resume: bool, progress: Progress) -> dict[str, Any]:
    """Play the methods, save everything, and return the result's document.

    Raises:
        ConfigError: If there is no such method.
        ArtifactError: If a bundle is missing.
    """
    result, _ = timed_episodes(workspace, STUDY, resume=resume, progress=progress)
    rows = [
        asdict(row)
        for name in result.methods
        for row in kept_layers(name, [record for record in result.records if record.method == name])
    ]
    document = {**about(workspace, STUDY), "methods": outcomes(result), "rows": rows}
    caption = f"Layers that inferences keep on {workspace.suite.name}, and the time that so many take (Fig. 4)."
    return keep(workspace, STUDY, document, figure(document), caption, rows)
