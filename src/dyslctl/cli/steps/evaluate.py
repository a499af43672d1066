"""Evaluate methods on the same episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dyslctl import methods
from dyslctl.artifacts.model_card import CardMetric, write_card
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.cli.workspace import Workspace
from dyslctl.jobs.executor import Executor
from dyslctl.jobs.progress import Progress
from dyslctl.jobs.recipe import PolicyRecipe
from dyslctl.jobs.rollout import evaluate, videos
from dyslctl.jobs.summary import EvaluationResult
from dyslctl.policy import Policy
from dyslctl.report import plots


def run_eval(workspace: Workspace, *, resume: bool, progress: Progress) -> dict[str, Any]:
    """Evaluate, save everything, and return the result's document."""
    document = evaluate_suite(workspace, resume=resume, progress=progress)
    write_cards(workspace, [document])
    return document


def evaluate_suite(workspace: Workspace, *, resume: bool, progress: Progress) -> dict[str, Any]:
    """Evaluate, save the result, and return its document."""
    out = workspace.run.eval(workspace.suite.name)
    result, recipe = play_methods(workspace, out, resume=resume, progress=progress)
    more = {
        "seed": workspace.config.seed,
        "batch": workspace.config.eval.batch,
        "backend": workspace.backbone.backend,
        "target_layers": recipe.target_layers,
        "figures": _draw(result, workspace),
        "videos": [path.relative_to(workspace.run.path).as_posix() for path in videos(out)],
    }
    document = {**result.as_dict(), **more}
    workspace.keep(f"eval-{workspace.suite.name}", document, out)
    return document


def play_methods(
    workspace: Workspace, out: Path, *, resume: bool, progress: Progress
) -> tuple[EvaluationResult, PolicyRecipe]:
    """The episodes that the section ``eval`` asks for, kept in ``out``, and how the policies were made."""
    settings, suite, target = workspace.config.eval, workspace.suite, None
    if any([methods.needs_target(name) for name in settings.methods]):
        target = measure_target(workspace, out / "target", resume=resume, progress=progress)
    recipe = workspace.policies(settings.methods, target)
    result = evaluate(
        suite,
        _factories(recipe, settings.methods),
        suite.episodes(settings.split, settings.episodes),
        out,
        about=recipe.about(settings.methods),
        resume=resume,
        workers=settings.workers,
        batch=settings.batch,
        episode_timeout=settings.episode_timeout,
        executor=Executor.of(settings.executor, workspace.config.model.device),
        video=settings.video,
        progress=progress,
    )
    return result, recipe


def write_cards(workspace: Workspace, documents: Sequence[dict[str, Any]]) -> None:
    """Tell the model cards of the bundles that were evaluated what ``documents`` say of them.

    Methods of which no episode finished are left out.
    """
    metrics = {
        f"{name} on {document['suite']}, {document['split']}": _metric(found)
        for document in documents
        for name, found in document["methods"].items()
        if found["success_rate"] is not None and found["mean_layers_run"] is not None
    }
    for method in methods.bundles(methods.with_reference(workspace.config.eval.methods)):
        write_card(workspace.run.bundle(method), SkipProfile.load(workspace.run.skip_profile).suite, metrics)


def _metric(found: Mapping[str, Any]) -> CardMetric:
    low, high = found["success_ci95"]
    return CardMetric(found["success_rate"], low, high, found["episodes"], found["mean_layers_run"])


def measure_target(workspace: Workspace, out: Path, *, resume: bool, progress: Progress) -> float:
    """The mean executed layers of ``methods.reference``, for random skipping to match.

    Measured on ``tune`` episodes before the comparison begins, so that the random methods are fixed before any test
    episode, whichever methods run and wherever an interrupted evaluation is resumed.
    """
    settings = workspace.config.eval
    name = methods.reference(settings.methods)
    recipe = workspace.policies([name])
    result = evaluate(
        workspace.suite,
        _factories(recipe, [name]),
        workspace.suite.episodes("tune", settings.target_episodes),
        out,
        about=recipe.about([name]),
        resume=resume,
        workers=settings.workers,
        batch=settings.batch,
        episode_timeout=settings.episode_timeout,
        executor=Executor.of(settings.executor, workspace.config.model.device),
        progress=progress,
        description=f"{name}'s mean layers",
    )
    target = result.methods[name].mean_layers_run
    return float(workspace.backbone.load().spec.num_layers) if target is None else target


def _factories(recipe: PolicyRecipe, names: Sequence[str]) -> dict[str, Callable[[], Policy]]:
    """What makes each policy. Each is made once here: one that cannot be made leaves an earlier result alone."""
    factories: dict[str, Callable[[], Policy]] = {name: recipe.factory(name) for name in names}
    for make in factories.values():
        make()
    return factories


def _draw(result: EvaluationResult, workspace: Workspace) -> dict[str, str]:
    points = [
        plots.Point(name, found.success_rate, found.success_ci95, found.mean_layers_run)
        for name, found in result.methods.items()
        if found.success_rate is not None and found.mean_layers_run is not None
    ]
    figure = plots.success_against_layers(points, workspace.backbone.load().spec.num_layers, result.episodes)
    path = plots.save(figure, workspace.run.report / f"success_{result.suite}.png")
    return {f"Success on {result.suite} against executed layers, with 95 % Wilson intervals.": str(path)}
