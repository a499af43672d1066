"""A run below a run for each training seed: the same skip profile, bundles of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from dyslctl.artifacts.bundle import weights_digest
from dyslctl.artifacts.files import atomic_write, make_folder, read_json, read_text, write_json
from dyslctl.artifacts.run_dir import RunDirectory
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.artifacts.strict_yaml import read_yaml
from dyslctl.cli.config import DistillConfig
from dyslctl.cli.steps.distill import run_distill
from dyslctl.cli.steps.trainers import NOT_OPTIMISATION, ON_SUITES
from dyslctl.cli.workspace import Workspace
from dyslctl.errors import ConfigError
from dyslctl.jobs.progress import Progress
from dyslctl.jobs.trained_methods import TRAINED


def check_settings(settings: DistillConfig, bundles: Sequence[str]) -> None:
    """Every setting that the user gave must mean something to the training of one of ``bundles``.

    Raises:
        ConfigError: If one does not; names it.
    """
    given = set(settings.model_dump(exclude_none=True))
    unknown = sorted(given - NOT_OPTIMISATION - set().union(*map(_known, bundles)))
    if unknown:
        raise ConfigError(
            f"distill.{unknown[0]}: no method in use is trained with it, expected a setting of: "
            f"{', '.join(bundles) or 'none, since nothing is trained'}",
            hint="leave it out, or add a method that knows it to --method",
        )


def _known(bundle: str) -> set[str]:
    """The settings that the training of ``bundle`` reads."""
    return {field.name for field in fields(TRAINED[bundle].settings)}


def _settings_for(bundle: str, settings: DistillConfig) -> DistillConfig:
    """``settings`` without those that only other trainings know."""
    foreign = set(DistillConfig.model_fields) - NOT_OPTIMISATION - _known(bundle)
    foreign |= set() if bundle in ON_SUITES else {"suites"}
    return settings.model_copy(update={**dict.fromkeys(foreign), "method": bundle})


def trained_run(
    workspace: Workspace, path: Path, seed: int, bundles: Sequence[str], *, resume: bool, progress: Progress
) -> Workspace:
    """A run at ``path``, like that of ``workspace`` but trained with ``seed``; every command works on it.

    Bundles that are there already, trained in the same way for the same profile and backbone, stay as they are.

    Args:
        workspace: Of a run with a skip profile.
        path: Where the new run is or will be.
        seed: Of everything random in it.
        bundles: What to train, as ``distill --method`` calls it.
        resume: Continue a training that was interrupted.
        progress: Listener.

    Raises:
        ArtifactError: If there is no skip profile.
    """
    run = RunDirectory(make_folder(path))
    write_json(run.manifest_path, workspace.run.manifest().dump())
    atomic_write(run.skip_profile, _content(workspace.run.skip_profile))
    if workspace.run.profile_config.exists():
        atomic_write(run.profile_config, _content(workspace.run.profile_config))
    trained = replace(workspace, run=run, config=workspace.config.model_copy(update={"seed": seed}))
    for bundle in bundles:
        _train(trained, bundle, resume=resume, progress=progress)
    return trained


def _content(path: Path) -> str:
    return read_text(path, hint="dyslctl profile makes it")


def _train(workspace: Workspace, bundle: str, *, resume: bool, progress: Progress) -> None:
    """Train ``bundle`` unless the mark of an equal training stands; it is set last."""
    settings = _settings_for(bundle, workspace.config.distill)
    told = as_profiled(replace(workspace, config=workspace.config.model_copy(update={"distill": settings})))
    mark, now, folder = told.run.path / f"trained_{bundle}.json", _decisive(_training(told)), told.run.bundle(bundle)
    then = read_json(mark) if mark.exists() else {}
    made = then.pop("weights", None)  # marks of earlier versions do not tell
    if then and _decisive(then) == now and folder.exists() and made in (None, weights_digest(folder)):
        return
    mark.unlink(missing_ok=True)
    run_distill(told, [1, 2], resume=resume and not then, progress=progress)  # with a mark it is not half done
    write_json(mark, {**now, "weights": weights_digest(folder)})


def as_profiled(workspace: Workspace) -> Workspace:
    """``workspace`` in the precision that was profiled: a faster one is for playing, not for training."""
    path = workspace.run.profile_config
    dtype = read_yaml(path).get("model", {}).get("dtype") if path.exists() else None
    return replace(workspace, backbone=replace(workspace.backbone, dtype=dtype or workspace.backbone.dtype))


def _training(workspace: Workspace) -> dict[str, Any]:
    """All that a training depends on."""
    config = workspace.config
    return {
        "backbone": workspace.backbone.load().spec.fingerprint,
        "dtype": workspace.backbone.dtype,
        "profile": SkipProfile.load(workspace.run.skip_profile).hash,
        "suites": list(config.distill.suites or [workspace.suite.name]),
        **({"execute_horizon": config.execute_horizon} if config.execute_horizon else {}),
        "data": config.data.model_dump(mode="json"),
        "seed": config.seed,
        "distill": config.distill.model_dump(mode="json"),
        "guidance": config.guidance.model_dump(mode="json"),
    }


def _decisive(training: Mapping[str, Any]) -> dict[str, Any]:
    """Without ``workers``, which change no weights, and what is left to the method: a mark may be older than a key."""
    told = training.get("distill", {})
    return {
        **training,
        "distill": {key: value for key, value in told.items() if key != "workers" and value is not None},
    }
