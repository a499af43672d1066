"""Evaluate methods on the same episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dyslctl import methods
from dyslctl.artifacts.model_card import CardMetric, write_card
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.cli.config import Config
from dyslctl.cli.workspace import Workspace
from dyslctl.jobs.executor import LOCAL, Executor
from dyslctl.jobs.progress import Progress
from dyslctl.jobs.recipe import PolicyRecipe
from dyslctl.jobs.rollout import discard, evaluate, videos
from dyslctl.jobs.summary import EvaluationResult
from dyslctl.jobs.video import Which
from dyslctl.report import plots
from dyslctl.suite import EpisodeSpec, Split, TaskSuite


@dataclass(frozen=True)
class PlayPlan:
    """What is played, and how.

    Attributes:
        methods: On the same episodes.
        split: Of the initial states.
        episodes: Of each method.
        workers, batch, episode_timeout, executor, video: As in :func:`dyslctl.jobs.rollout.evaluate`.
        target_episodes: ``tune`` episodes behind the mean layers that some methods match.
    """

    methods: Sequence[str]
    split: Split
    episodes: int
    workers: int = 1
    batch: int = 1
    episode_timeout: float | None = None
    executor: Executor = LOCAL
    video: Which | None = None
    target_episodes: int = 20

    @classmethod
    def of(cls, config: Config) -> PlayPlan:
        """What the section ``eval`` asks for."""
        asked = config.eval
        return cls(
            asked.methods,
            asked.split,
            asked.episodes,
            workers=asked.workers,
            batch=asked.batch,
            episode_timeout=asked.episode_timeout,
            executor=Executor.of(asked.executor, config.model.device),
            video=asked.video,
            target_episodes=asked.target_episodes,
        )


def run_eval(workspace: Workspace, *, resume: bool, progress: Progress) -> dict[str, Any]:
    """Evaluate, save everything, and return the result's document."""
    document = evaluate_suite(workspace, resume=resume, progress=progress)
    write_cards(workspace, [document])
    return document


def evaluate_suite(workspace: Workspace, *, resume: bool, progress: Progress) -> dict[str, Any]:
    """Evaluate, save the result, and return its document."""
    out = workspace.run.eval(workspace.suite.name)
    result, recipe = play_methods(workspace, PlayPlan.of(workspace.config), out, resume=resume, progress=progress)
    more = {
        "seed": workspace.config.seed,
        "batch": workspace.config.eval.batch,
        "backend": workspace.backbone.backend,
        "target_layers": recipe.target_layers,
        "bundles": recipe.digests(),
        "figures": _draw(result, workspace),
        "videos": [path.relative_to(workspace.run.path).as_posix() for path in videos(out)],
    }
    document = {**result.as_dict(), **more}
    workspace.keep(f"eval-{workspace.suite.name}", document, out)
    return document


def play_methods(
    workspace: Workspace, plan: PlayPlan, out: Path, *, resume: bool, progress: Progress
) -> tuple[EvaluationResult, PolicyRecipe]:
    """The episodes of ``plan``, kept in ``out``, and how the policies were made."""
    recipe = workspace.policies(plan.methods)
    if any([methods.needs_target(name) for name in plan.methods]):
        if not resume:  # or a target measured anew could be resumed beside the episodes of an earlier one
            _make_once(replace(recipe, target_layers=float(workspace.backbone.load().spec.num_layers)), plan)
            discard(out)
        target = measure_target(workspace, plan, out / "target", resume=resume, progress=progress)
        recipe = replace(recipe, target_layers=target)
    specs = workspace.suite.episodes(plan.split, plan.episodes)
    result = _play(workspace.suite, recipe, plan, specs, out, resume=resume, progress=progress)
    return result, recipe


def measure_target(workspace: Workspace, plan: PlayPlan, out: Path, *, resume: bool, progress: Progress) -> float:
    """The mean executed layers of ``methods.reference``, for random skipping to match.

    Measured on ``tune`` episodes before the comparison begins, so that the random methods are fixed before any test
    episode, whichever methods run and wherever an interrupted evaluation is resumed.
    """
    name = methods.reference(plan.methods)
    alone = replace(plan, methods=(name,), video=None)
    recipe, specs = workspace.policies([name]), workspace.suite.episodes("tune", plan.target_episodes)
    what = f"{name}'s mean layers"
    result = _play(workspace.suite, recipe, alone, specs, out, resume=resume, progress=progress, description=what)
    target = result.methods[name].mean_layers_run
    return float(workspace.backbone.load().spec.num_layers) if target is None else target


def _play(
    suite: TaskSuite,
    recipe: PolicyRecipe,
    plan: PlayPlan,
    specs: Sequence[EpisodeSpec],
    out: Path,
    *,
    resume: bool,
    progress: Progress,
    description: str = "episodes",
) -> EvaluationResult:
    """``specs`` played as ``plan`` says."""
    _make_once(recipe, plan)
    return evaluate(
        suite,
        {name: recipe.factory(name) for name in plan.methods},
        specs,
        out,
        about=recipe.about(plan.methods),
        resume=resume,
        workers=plan.workers,
        batch=plan.batch,
        episode_timeout=plan.episode_timeout,
        executor=plan.executor,
        video=plan.video,
        progress=progress,
        description=description,
    )


def _make_once(recipe: PolicyRecipe, plan: PlayPlan) -> None:
    """Make each policy: one that cannot be made leaves an earlier result alone."""
    for name in plan.methods:
        recipe.factory(name)()


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


def _draw(result: EvaluationResult, workspace: Workspace) -> dict[str, str]:
    points = [
        plots.Point(name, found.success_rate, found.success_ci95, found.mean_layers_run)
        for name, found in result.methods.items()
        if found.success_rate is not None and found.mean_layers_run is not None
    ]
    figure = plots.success_against_layers(points, workspace.backbone.load().spec.num_layers, result.episodes)
    path = plots.save(figure, workspace.run.report / f"success_{result.suite}.png")
    return {f"Success on {result.suite} against executed layers, with 95 % Wilson intervals.": str(path)}
