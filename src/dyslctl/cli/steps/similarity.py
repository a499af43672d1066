"""Which layers can be spared: the profile's similarities, and the model without one layer at a time."""

from __future__ import annotations

from typing import Any

from dyslctl.analysis.similarity import Without, rank_correlation, sensitivity
from dyslctl.artifacts.files import read_json
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.cli.steps.study import about, flat, keep, stage
from dyslctl.cli.workspace import Workspace
from dyslctl.errors import ArtifactError
from dyslctl.jobs.profile import SIMILARITY_SCHEMA
from dyslctl.jobs.progress import Progress
from dyslctl.jobs.summary import BASELINE
from dyslctl.report.figures.similarity import figure

STUDY = "similarity"
HINT = "dyslctl profile makes it"


def run_similarity(workspace: Workspace, *, resume: bool, progress: Progress) -> dict[str, Any]:
    """Play all of it, save everything, and return the result's document.

    Raises:
        ArtifactError: If the run was not profiled.
    """
    profile, measured = SkipProfile.load(workspace.run.skip_profile), _measured(workspace)
    recipe, stand = workspace.policies([BASELINE]), stage(workspace, STUDY, resume=resume, progress=progress)
    full = stand.play(BASELINE, recipe, BASELINE)
    without = {
        layer: stand.play(BASELINE, recipe, f"without{layer}", Without(layer)).records
        for layer in range(profile.backbone.num_layers)
    }
    layers = sensitivity(profile.similarity.cosine, full.records, without)
    found, errors = full.methods[BASELINE], profile.similarity.standard_error
    rows = [
        flat(row) | {"static": row.layer in profile.static_layers, "similarity_standard_error": errors[row.layer]}
        for row in layers
    ]
    document = {
        **about(workspace, STUDY),
        "samples": measured["samples"],
        "full": {"success_rate": found.success_rate, "success_ci95": found.success_ci95},
        "rank_correlation": rank_correlation(layers),
        "heat_map": measured["heat_map"],
        "rows": rows,
    }
    caption = f"Similarity of the layers, and success on {workspace.suite.name} without one of them (Fig. 3)."
    return keep(workspace, STUDY, document, figure(document), caption, rows)


def _measured(workspace: Workspace) -> dict[str, Any]:
    """What ``profile`` measured, beside the skip profile."""
    path = workspace.run.path / "similarity.json"
    measured = read_json(path, hint=HINT)
    if measured.get("schema") != SIMILARITY_SCHEMA:
        raise ArtifactError(f"{path}: expected {SIMILARITY_SCHEMA}, found {measured.get('schema')}", hint=HINT)
    return measured
