"""Train adapters and controllers for a run's skip profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dyslctl.artifacts.files import replace_folder, writing
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.cli.workspace import Workspace, command_line
from dyslctl.jobs.calibrate import CalibrationSettings, calibrate
from dyslctl.jobs.data import collect
from dyslctl.jobs.dataset import Dataset
from dyslctl.jobs.distill import DistillResult, DistillSettings, Stage, distill
from dyslctl.jobs.progress import Progress
from dyslctl.report import plots

NOT_OPTIMISATION = {"episodes", "data", "method"}
"""Keys of the section ``distill`` that say what to learn from, not how."""
CURVES = {"loss": "loss", "task": "task loss", "gate": "mean skip probability"}


def run_distill(workspace: Workspace, stages: Sequence[Stage], *, resume: bool, progress: Progress) -> dict[str, Any]:
    """Train ``stages`` on one set of states, save everything, and return the result's document.

    Stage 2 ends with the calibration of the guidance thresholds; only then does its bundle take the run's place.
    """
    profile = SkipProfile.load(workspace.run.skip_profile)
    profile.check_backbone(workspace.backbone.load().spec)
    data = _states(workspace, progress)
    rows = []
    for stage in stages:
        fresh, bundle = workspace.run.distill(stage) / "bundle", workspace.run.bundle(stage)
        result = _train(workspace, stage, profile, data, fresh, resume=resume, progress=progress)
        if stage == 2:
            _calibrate(workspace, profile, fresh, progress)
        with writing(bundle):
            replace_folder(fresh, bundle)
        rows.append(_row(workspace, replace(result, bundle_path=bundle)))
        workspace.keep(f"distill-stage{stage}", _document(rows[-1:]), workspace.run.distill(stage))
    return _document(rows)


def _states(workspace: Workspace, progress: Progress) -> Dataset:
    settings = workspace.config.distill
    return collect(
        workspace.backbone.load(),
        workspace.suite,
        episodes=settings.episodes,
        seed=workspace.config.seed,
        source=settings.data,
        progress=progress,
    )


def _train(
    workspace: Workspace,
    stage: Stage,
    profile: SkipProfile,
    data: Dataset,
    bundle: Path,
    *,
    resume: bool,
    progress: Progress,
) -> DistillResult:
    backbone, run = workspace.backbone.load(), workspace.run
    changed = workspace.config.distill.model_dump(exclude=NOT_OPTIMISATION, exclude_none=True)
    defaults = DistillSettings.default(stage, backbone.spec.hidden_size)
    return distill(
        backbone,
        profile,
        data,
        defaults.override({**changed, "seed": workspace.config.seed}),
        out=run.distill(stage),
        bundle=bundle,
        init=run.bundle(1) if stage == 2 else None,
        resume=resume,
        command=command_line(),
        progress=progress,
    )


def _calibrate(workspace: Workspace, profile: SkipProfile, bundle: Path, progress: Progress) -> None:
    settings = workspace.config.calibrate
    calibrate(
        workspace.backbone.load(),
        workspace.suite,
        profile,
        bundle,
        episodes=settings.episodes,
        how=CalibrationSettings(**settings.model_dump(exclude={"episodes"})),
        progress=progress,
    )


def _row(workspace: Workspace, result: DistillResult) -> dict[str, Any]:
    figure = workspace.run.report / f"distill_stage{result.stage}.png"
    plots.save(plots.training_curve(result.curve, CURVES), figure)
    return {
        "stage": result.stage,
        "steps": result.steps,
        "loss_first": result.loss_first,
        "loss_last": result.loss_last,
        "trainable_parameters": result.trainable_parameters,
        "bundle_path": str(result.bundle_path),
        "seconds": result.seconds,
        "figures": {f"Training curve of stage {result.stage}.": str(figure)},
    }


def _document(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The last stage's numbers on top, all stages below."""
    return {"schema": "dyslctl.distill/1", **rows[-1], "stages": rows}
