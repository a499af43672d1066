"""Runs below a run that differ from it in a few settings: ``variants/<settings>/``, each a run like any other.

What is learnt depends on some of the settings only. Variants that differ in the others alone share one training: their
runs hold copies of its bundle, with the thresholds fitted anew.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dyslctl.artifacts.bundle import SETTINGS, load_bundle, save_settings, weights_digest
from dyslctl.artifacts.files import (
    atomic_folder,
    atomic_write,
    make_folder,
    read_json,
    read_text,
    sha256,
    write_json,
)
from dyslctl.artifacts.run_dir import RunDirectory
from dyslctl.artifacts.skip_profile import Guidance, SkipProfile
from dyslctl.artifacts.strict_yaml import dump_yaml, read_yaml
from dyslctl.cli.config import Config, merge, parse_set
from dyslctl.cli.steps.profile import as_told, measured
from dyslctl.cli.steps.seeds import as_profiled
from dyslctl.cli.steps.trainers import trainer
from dyslctl.cli.workspace import Workspace, command_line
from dyslctl.errors import ConfigError
from dyslctl.jobs.progress import Progress

Settings = tuple[str, ...]
"""As ``--set`` takes them, ``("profile.ratio=0.3",)``; none: the run as it is."""
FITTED = ("profile.guidance.", "guidance.")
"""Settings of what is fitted after the training."""
PLAYED = ("pruning.",)
"""Settings of what is neither trained nor fitted."""
LONGEST = 120
"""Characters of a folder's name."""


def trained_part(settings: Settings) -> Settings:
    """Those of ``settings`` that decide what is learnt."""
    return tuple(each for each in settings if not each.startswith((*FITTED, *PLAYED)))


def fitted_part(settings: Settings) -> Settings:
    """Those of ``settings`` that decide what is learnt, or what is fitted after it."""
    return tuple(each for each in settings if not each.startswith(PLAYED))


def folder_name(settings: Settings) -> str:
    """What the folder of a variant is called: its settings, ``as-is`` if there are none."""
    name = ",".join(settings) or "as-is"
    safe = re.sub(r"[^A-Za-z0-9.=_,+-]", "", name)[:LONGEST]
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def variant(workspace: Workspace, settings: Settings) -> Workspace:
    """The run of ``workspace`` with ``settings`` laid over its own; nothing is written.

    Raises:
        ConfigError: If a setting is unknown or wrong.
    """
    if not settings:
        return workspace
    told = {**workspace.config.model_dump(mode="json"), "profile": _told(workspace)}
    config = merge([("the run", told), *map(parse_set, settings)])
    own, horizon = fitted_part(settings), config.execute_horizon
    run = RunDirectory(workspace.run.path / "variants" / folder_name(own)) if own else workspace.run
    suite = workspace.suite if horizon is None else workspace.suite.executing(horizon)
    return replace(workspace, run=run, config=config, suite=suite)


def _told(workspace: Workspace) -> dict[str, Any]:
    """How the run was profiled."""
    return workspace.run.told("profile") or _told_to(workspace)


def _told_to(workspace: Workspace) -> dict[str, Any]:
    return workspace.config.profile.model_dump(mode="json")


def make_variant(workspace: Workspace, settings: Settings, progress: Progress) -> None:
    """Write the run of a variant: a manifest and a skip profile of its own. One that is there already stays.

    Args:
        workspace: Of the run that it is a variant of.
        settings: Of the variant.
        progress: Listener.

    Raises:
        ConfigError: If a setting is wrong, or the layers cannot be chosen as asked.
        ArtifactError: If the run has no skip profile.
    """
    asked = variant(workspace, settings)
    profiled = {**_told_to(asked), "of": sha256(workspace.run.skip_profile)}
    mark = asked.run.path / "variant.json"
    if asked.run == workspace.run or (mark.exists() and read_json(mark) == profiled):
        return
    profile = _profile(workspace, asked, progress)
    make_folder(asked.run.path)
    write_json(asked.run.manifest_path, workspace.run.manifest().dump())
    profile.save(asked.run.skip_profile)
    atomic_write(asked.run.profile_config, _profile_config(workspace, asked.config))
    write_json(mark, profiled)


def _profile(workspace: Workspace, asked: Workspace, progress: Progress) -> SkipProfile:
    """Measured anew only where the choice of layers may differ; a profile that was edited stays so elsewhere."""
    own, told = SkipProfile.load(workspace.run.skip_profile), (_told(workspace), _told_to(asked))
    then, now = [{key: each[key] for key in each if key not in ("guidance", "modules")} for each in told]
    if then == now:
        return as_told(own, asked.config.profile)
    like = asked.config.model_copy(update={"seed": own.made_with.seed})
    return measured(replace(asked, config=like), progress).profile


def _profile_config(workspace: Workspace, config: Config) -> str:
    """How later commands are to load the variant: like the run, but for what it sets."""
    path = workspace.run.profile_config
    told = read_yaml(path) if path.exists() else {}
    own = {"profile": config.profile.model_dump(mode="json"), "execute_horizon": config.execute_horizon}
    return dump_yaml({**told, **own}, f"A variant, made by: {command_line()}\n")


def fitted_run(
    workspace: Workspace, trained: RunDirectory, path: Path, bundles: Sequence[str], progress: Progress
) -> None:
    """A run at ``path`` with the bundles of ``trained``, and thresholds fitted as ``workspace`` says.

    What is there already, of the same weights and fitted alike, stays as it is.

    Raises:
        ConfigError: If a bundle has no thresholds to fit.
    """
    run = RunDirectory(make_folder(path))
    write_json(run.manifest_path, workspace.run.manifest().dump())
    atomic_write(run.skip_profile, read_text(workspace.run.skip_profile))
    atomic_write(run.profile_config, read_text(workspace.run.profile_config))
    own = replace(workspace, run=run)
    for bundle in bundles:
        _fit(own, trained.bundle(bundle), bundle, progress)


def _fit(workspace: Workspace, source: Path, bundle: str, progress: Progress) -> None:
    target, guidance = workspace.run.bundle(bundle), SkipProfile.load(workspace.run.skip_profile).guidance
    now = {
        "weights": weights_digest(source),
        "suite": workspace.suite.name,
        "guidance": guidance.model_dump(mode="json"),
        "fit": workspace.config.guidance.model_dump(mode="json"),
    }
    mark = workspace.run.path / f"fitted_{bundle}.json"
    if mark.exists() and (target / SETTINGS).exists() and read_json(mark) == now:
        return
    if not isinstance(load_bundle(source).settings, Guidance):
        raise ConfigError(f"'{bundle}' has no guidance: expected settings of distill for it, not of profile.guidance")
    mark.unlink(missing_ok=True)
    with workspace.training():
        with atomic_folder(target) as new:
            shutil.copytree(source, new, dirs_exist_ok=True)
        save_settings(target, guidance, None)
        method = workspace.config.distill.model_copy(update={"method": bundle})
        told = replace(workspace, config=workspace.config.model_copy(update={"distill": method}))
        trainer(as_profiled(told), progress).calibrate(target)
    write_json(mark, now)
