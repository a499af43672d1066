"""Which part of an episode matters: play it undisturbed, then with one part disturbed at a time."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dyslctl.analysis.importance import Disturbance, Watch, importance, lengths, parts
from dyslctl.cli.steps.study import about, flat, keep, one_method, stage
from dyslctl.cli.workspace import Workspace
from dyslctl.jobs.progress import Progress
from dyslctl.jobs.summary import BASELINE
from dyslctl.report.figures.importance import figure

STUDY = "importance"


def run_importance(workspace: Workspace, *, resume: bool, progress: Progress) -> dict[str, Any]:
    """Play all of it, save everything, and return the result's document.

    Raises:
        ConfigError: If there is no such method, or more than one.
        ArtifactError: If the method's bundle is missing.
    """
    settings, suite, method = workspace.config.analyze, workspace.suite, one_method(workspace, BASELINE)
    recipe, stand = workspace.policies([method]), stage(workspace, STUDY, resume=resume, progress=progress)
    undisturbed = stand.play(method, recipe, f"{method}/undisturbed", Watch())
    begins = lengths(undisturbed.records, suite.max_score)
    disturbed = {}
    for part in range(settings.parts):
        for noise in sorted(settings.noise):
            disturbance = Disturbance(part, settings.parts, noise, begins, workspace.config.seed)
            folder = f"{method}/part{part}of{settings.parts}_noise{noise:g}"
            disturbed[part, noise] = stand.play(method, recipe, folder, disturbance).records
    rows = [flat(row) for row in importance(undisturbed.records, disturbed)]
    found = undisturbed.methods[method]
    about_parts = [asdict(part) for part in parts(undisturbed.records, settings.parts)]
    document = {
        **about(workspace, STUDY),
        "method": method,
        "undisturbed": {"success_rate": found.success_rate, "success_ci95": found.success_ci95},
        "parts": about_parts,
        "rows": rows,
    }
    caption = f"Success on {suite.name} when one part of every episode is disturbed (Fig. 1)."
    by_part = {part["part"]: part for part in about_parts}
    return keep(workspace, STUDY, document, figure(document), caption, [by_part[row["part"]] | row for row in rows])
