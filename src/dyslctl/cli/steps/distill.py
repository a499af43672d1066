"""Train a method for a run's skip profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dyslctl.artifacts.files import make_folder, replace_folder, writing
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.cli.config import DistillConfig
from dyslctl.cli.steps.calibrate import calibratable, check_within, keep_calibration, set_to_target, target_of
from dyslctl.cli.steps.offline import offline_target, set_offline
from dyslctl.cli.steps.trainers import trainer
from dyslctl.cli.workspace import Workspace
from dyslctl.dysl.exits import default_exits
from dyslctl.dysl.partition import tail
from dyslctl.errors import ConfigError
from dyslctl.jobs.budget import MaxSuccessDrop, Target
from dyslctl.jobs.distributed import leads
from dyslctl.jobs.fit_tolerance import OfflineTarget
from dyslctl.jobs.progress import Progress
from dyslctl.jobs.recipe import check_horizon
from dyslctl.jobs.stage_result import DistillResult, Stage
from dyslctl.jobs.trained_methods import TRAINED
from dyslctl.jobs.trained_modules import partition_of
from dyslctl.report import plots

DEFAULT_DROP = 1.0
"""Percentage points of success that the default calibration may cost."""
CURVES = {"loss": "loss", "task": "task loss", "gate": "mean skip probability"}


def run_distill(
    workspace: Workspace,
    stages: Sequence[Stage],
    *,
    resume: bool,
    progress: Progress,
    target: Target | OfflineTarget | None = None,
) -> dict[str, Any]:
    """Train ``stages`` on one set of states, save everything, and return the result's document.

    Stage 2 ends with calibrations: of the thresholds of ``dysl-paper``, and of the method's dial if there is a
    ``target``. Only then does the new bundle take the place of the run's: until then that one stays as it is.
    Of several processes the leader does all this, and the others train with it; their document is empty.

    Raises:
        EnvironmentMismatch: If the run is being trained by another command.
    """
    workspace.require_upstream("distill")
    with workspace.training():
        return _run_distill(workspace, stages, resume=resume, progress=progress, target=target)


def _run_distill(
    workspace: Workspace,
    stages: Sequence[Stage],
    *,
    resume: bool,
    progress: Progress,
    target: Target | OfflineTarget | None,
) -> dict[str, Any]:
    training, method, run = trainer(workspace, progress), workspace.config.distill.method, workspace.run
    rows, calibrated = [], dict[str, Any]()
    stages = _stages_of(workspace.config.distill, stages)
    if not resume and leads():
        _forget_checkpoints(workspace, stages)
    for stage in stages:
        fresh, bundle = run.distill(method, stage) / "bundle", run.bundle(method, stage)
        result = training.train(stage, fresh, resume=resume)
        if not leads():
            continue
        if stage == 2:
            training.calibrate(fresh)
            calibrated = _calibrated(workspace, target, fresh, resume, progress)
        make_folder(bundle.parent)
        with writing(bundle):
            replace_folder(fresh, bundle)
        rows.append(_row(workspace, replace(result, bundle_path=bundle)))
        workspace.keep(f"distill-stage{stage}", _document(rows[-1:]), run.distill(method, stage))
    if calibrated:
        keep_calibration(workspace, calibrated)
    return {**_document(rows), **({"calibrated": calibrated} if calibrated else {})} if rows else {}


def _forget_checkpoints(workspace: Workspace, stages: Sequence[Stage]) -> None:
    """Those of an earlier training: a later ``--resume`` is to go on with this one."""
    for stage in stages:
        for checkpoint in workspace.run.distill(workspace.config.distill.method, stage).glob("*.safetensors"):
            checkpoint.unlink()


def in_two_stages(settings: DistillConfig) -> bool:
    """Does the method train in two stages, as it is set?"""
    return not TRAINED[settings.method].in_one_stage and not settings.from_scratch


def _stages_of(settings: DistillConfig, stages: Sequence[Stage]) -> Sequence[Stage]:
    """Those of ``stages`` that the method has.

    Raises:
        ConfigError: If it has none of them.
    """
    if in_two_stages(settings):
        return stages
    if 2 not in stages:
        how = "from scratch" if settings.from_scratch else f"'{settings.method}'"
        raise ConfigError(f"{how} is trained in one stage, the second", hint="--stage all")
    return [2]


def _calibrated(
    workspace: Workspace, target: Target | OfflineTarget | None, fresh: Path, resume: bool, progress: Progress
) -> dict[str, Any]:
    """The bundle ``fresh`` is set to ``target``: the document of that, empty without a target."""
    if target is None:
        return {}
    method = workspace.config.distill.method
    try:
        if isinstance(target, OfflineTarget):
            document = set_offline(workspace, target, fresh, progress)
        else:
            document = set_to_target(workspace, method, target, fresh, resume=resume, progress=progress)
    except ConfigError as error:
        hints = [*([error.hint] if error.hint else []), "--resume keeps what was trained"]
        raise ConfigError(error.message, hint="; ".join(hints)) from error
    return {**document, "bundle_path": str(workspace.run.bundle(method))}


def run_distill_to_budget(
    workspace: Workspace, stages: Sequence[Stage], *, resume: bool, progress: Progress
) -> dict[str, Any]:
    """:func:`run_distill`, with the method's dial set to the target of the section ``calibrate``.

    Without a target ``dysl`` is set to lose at most :data:`DEFAULT_DROP` points, and ``dysl-paper`` stays as it is.
    On recorded episodes nothing is lost or won: see :mod:`dyslctl.jobs.fit_tolerance`.
    """
    method, budget = workspace.config.distill.method, workspace.config.calibrate
    spec = workspace.backbone.load().spec
    check_within(budget.target_layers, spec.num_layers, _first_exit(workspace))
    if workspace.config.data.path is None:
        check_horizon(workspace.suite.execute_horizon, spec)
    else:
        offline = offline_target(budget, method)
        if budget.target_layers is not None:
            _check_can_meet(method, stages)
        return run_distill(workspace, stages, resume=resume, progress=progress, target=offline)
    target = target_of(budget)
    if target is not None:
        _check_can_meet(method, stages)
    elif method == "dysl":
        target = MaxSuccessDrop(DEFAULT_DROP)
    return run_distill(workspace, stages, resume=resume, progress=progress, target=target)


def _first_exit(workspace: Workspace) -> int:
    """Of ``dysl``; 0 for the other methods, which have no such bound, or find it in training."""
    settings = workspace.config.distill
    if settings.method != "dysl":
        return 0
    partition = tail(partition_of(SkipProfile.load(workspace.run.skip_profile)))
    return (settings.exits or default_exits(partition))[0]


def _check_can_meet(method: str, stages: Sequence[Stage]) -> None:
    """A target that nothing would be set to, before hours of training."""
    if 2 not in stages:
        raise ConfigError("a target is met after stage 2, and only stage 1 was asked for", hint="--stage all")
    if method not in calibratable():
        raise ConfigError(f"'{method}' has no dial to set to a target", hint=f"--method {' or '.join(calibratable())}")


def _row(workspace: Workspace, result: DistillResult) -> dict[str, Any]:
    method = workspace.config.distill.method
    figure = workspace.run.report / f"distill_{method}_stage{result.stage}.png"
    exits = {key: f"loss of {key.replace('_', ' ')}" for key in result.curve[0] if key.startswith("exit_")}
    plots.save(plots.training_curve(result.curve, {**CURVES, **exits}), figure)
    return {
        "method": method,
        "stage": result.stage,
        "steps": result.steps,
        "loss_first": result.loss_first,
        "loss_last": result.loss_last,
        "trainable_parameters": result.trainable_parameters,
        "bundle_path": str(result.bundle_path),
        "seconds": result.seconds,
        "figures": {f"Training curve of stage {result.stage} of {method}.": str(figure)},
    }


def _document(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The last stage's numbers on top, all stages below."""
    return {"schema": "dyslctl.distill/1", **rows[-1], "stages": rows}
