"""A run below a run for each training seed: the same skip profile, bundles of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dyslctl.artifacts.files import atomic_write, make_folder, read_json, read_text, write_json
from dyslctl.artifacts.run_dir import RunDirectory
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.artifacts.strict_yaml import read_yaml
from dyslctl.cli.steps.distill import run_distill
from dyslctl.cli.workspace import Workspace
from dyslctl.jobs.progress import Progress

PROFILE_CONFIG = Path("config") / "profile.yaml"
"""Below a run; how the backbone was loaded when it was profiled, and is by all later commands."""


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
    if (workspace.run.path / PROFILE_CONFIG).exists():
        atomic_write(run.path / PROFILE_CONFIG, _content(workspace.run.path / PROFILE_CONFIG))
    trained = replace(workspace, run=run, config=workspace.config.model_copy(update={"seed": seed}))
    for bundle in bundles:
        _train(trained, bundle, resume=resume, progress=progress)
    return trained


def _content(path: Path) -> str:
    return read_text(path, hint="dyslctl profile makes it")


def _train(workspace: Workspace, bundle: str, *, resume: bool, progress: Progress) -> None:
    """Train ``bundle`` unless the mark of an equal training stands; it is set last."""
    workspace = _as_profiled(workspace)
    mark, now = workspace.run.path / f"trained_{bundle}.json", _training(workspace, bundle)
    if mark.exists() and read_json(mark) == now and workspace.run.bundle(bundle).exists():
        return
    mark.unlink(missing_ok=True)
    distill = workspace.config.distill.model_copy(update={"method": bundle})
    told = replace(workspace, config=workspace.config.model_copy(update={"distill": distill}))
    run_distill(told, [1, 2], resume=resume, progress=progress)
    write_json(mark, now)


def _as_profiled(workspace: Workspace) -> Workspace:
    """``workspace`` in the precision that was profiled: a faster one is for playing, not for training."""
    path = workspace.run.path / PROFILE_CONFIG
    dtype = read_yaml(path).get("model", {}).get("dtype") if path.exists() else None
    return replace(workspace, backbone=replace(workspace.backbone, dtype=dtype or workspace.backbone.dtype))


def _training(workspace: Workspace, bundle: str) -> dict[str, Any]:
    """All that a training depends on."""
    config = workspace.config
    return {
        "backbone": workspace.backbone.load().spec.fingerprint,
        "dtype": workspace.backbone.dtype,
        "profile": SkipProfile.load(workspace.run.skip_profile).hash,
        "suites": list(config.distill.suites or [workspace.suite.name]),
        "seed": config.seed,
        "distill": {**config.distill.model_dump(mode="json"), "method": bundle},
        "calibrate": config.calibrate.model_dump(mode="json"),
    }
