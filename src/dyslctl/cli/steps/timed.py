"""Several methods interleaved on the same episodes, one at a time: for the studies that time them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dyslctl import methods
from dyslctl.cli.steps.evaluate import PlayPlan, play_methods
from dyslctl.cli.steps.study import folder
from dyslctl.cli.workspace import Workspace
from dyslctl.jobs.executor import LOCAL
from dyslctl.jobs.progress import Progress
from dyslctl.jobs.recipe import PolicyRecipe
from dyslctl.jobs.summary import BASELINE, EvaluationResult

METHODS = (BASELINE, "dysl", "dysl-paper", "dysl-paper-controllers")
"""By default, as far as their bundles are there."""


def timed_episodes(
    workspace: Workspace, study: str, *, resume: bool, progress: Progress
) -> tuple[EvaluationResult, PolicyRecipe]:
    """The methods' episodes, one at a time in one process; time limit and video are those of the section ``eval``.

    Raises:
        ConfigError: If there is no such method.
        ArtifactError: If a bundle is missing.
        PluginError: If an episode crashed: what is left would be a choice of episodes.
    """
    wanted = workspace.config.analyze
    plan = replace(
        PlayPlan.of(workspace.config),
        methods=wanted.methods or _at_hand(workspace),
        split=wanted.split,
        episodes=wanted.episodes,
        workers=1,
        executor=LOCAL,
        batch=1,
    )
    out = folder(workspace, study) / "episodes"
    result, recipe = play_methods(workspace, plan, out, resume=resume, progress=progress)
    result.require_finished()
    return result, recipe


def outcomes(result: EvaluationResult) -> dict[str, Any]:
    """What a document says of each method's episodes."""
    return {
        name: {
            "success_rate": found.success_rate,
            "success_ci95": found.success_ci95,
            "mean_layers_run": found.mean_layers_run,
        }
        for name, found in result.methods.items()
    }


def _at_hand(workspace: Workspace) -> Sequence[str]:
    there = {path.name for path in workspace.run.bundles()}
    return tuple(name for name in METHODS if methods.method(name).bundle in {None, *there})
