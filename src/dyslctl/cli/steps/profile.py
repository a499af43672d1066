"""Profile the backbone of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dyslctl.artifacts.run_dir import RunDirectory
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.cli.config import ProfileConfig
from dyslctl.cli.steps.recorded import as_recorded, recorded_source
from dyslctl.cli.workspace import Workspace, command_line
from dyslctl.jobs.profile import ProfileResult, profile
from dyslctl.jobs.progress import Progress
from dyslctl.report import plots


def run_profile(workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Measure the layers; then start the run, save skip profile and figures, and return the result's document."""
    run = workspace.run
    result = measured(workspace, progress)
    with workspace.training():  # which reads what is replaced here
        workspace.start()
        result.profile.save(run.skip_profile)
        result.save_similarity(run.path / "similarity.json")
        document = _document(result, run)
        as_recorded(workspace, recorded_source(workspace)).keep("profile", document, run.path)
    return document


def measured(workspace: Workspace, progress: Progress) -> ProfileResult:
    """What the settings make of the backbone; nothing is written."""
    workspace.require_upstream("profile")
    settings, recipe, recorded = workspace.config.profile, workspace.backbone, recorded_source(workspace)
    found = profile(
        recipe.load(),
        workspace.suite,
        plugin_name=recipe.plugin,
        checkpoint=recipe.checkpoint,
        revision=recipe.revision,
        samples=settings.samples,
        ratio=settings.ratio,
        n_static=settings.static_layers,
        criterion=settings.criterion,
        source=settings.data,
        recorded=recorded,
        seed=workspace.config.seed,
        batch_size=settings.batch_size,
        command=command_line(),
        progress=progress,
    )
    return replace(found, profile=as_told(found.profile, settings))


def as_told(profile: SkipProfile, settings: ProfileConfig) -> SkipProfile:
    """``profile`` with the guidance and the sizes that the settings name."""
    guidance, modules = [part.model_dump(exclude_none=True) for part in (settings.guidance, settings.modules)]
    return profile.model_copy(
        update={
            "guidance": profile.guidance.model_copy(update=guidance),
            "modules": profile.modules.model_copy(update=modules),
        }
    )


def _document(result: ProfileResult, run: RunDirectory) -> dict[str, Any]:
    profile = result.profile
    return {
        "schema": "dyslctl.profile/1",
        "backbone": profile.backbone.plugin,
        "checkpoint": profile.backbone.checkpoint,
        "num_layers": profile.backbone.num_layers,
        "static_layers": list(profile.static_layers),
        "similarity": list(profile.similarity.cosine),
        "samples": profile.samples,
        "profile_path": str(run.skip_profile),
        "suite": profile.suite,
        "run": str(run.path),
        "figures": _draw(result, run),
        "seconds": result.seconds,
    }


def _draw(result: ProfileResult, run: RunDirectory) -> dict[str, str]:
    static = result.profile.static_layers
    heat_map = plots.heat_map(result.similarity.heat_map.tolist(), static)
    bars = plots.layer_bars(result.profile.similarity.cosine, static)
    paths = plots.save(heat_map, run.report / "heat_map.png"), plots.save(bars, run.report / "layer_similarity.png")
    return {
        "Mean cosine similarity between the outputs of every two layers (Fig. 3 a).": str(paths[0]),
        "Cosine similarity between input and output of each layer (Fig. 3 c).": str(paths[1]),
    }
