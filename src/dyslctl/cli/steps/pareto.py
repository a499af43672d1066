"""Success against layers: train, find dials, evaluate, pool and compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dyslctl import methods
from dyslctl.artifacts.files import atomic_write
from dyslctl.cli.steps.calibrate import SIDE_BY_SIDE
from dyslctl.cli.steps.seeds import check_settings, trained_run
from dyslctl.cli.workspace import Workspace
from dyslctl.errors import ConfigError
from dyslctl.jobs.budget import Found
from dyslctl.jobs.closed_loop import Stage
from dyslctl.jobs.curves import Point, Splits, curves, full_model
from dyslctl.jobs.pareto import INTERVALS, pareto
from dyslctl.jobs.progress import Progress
from dyslctl.jobs.summary import BASELINE, summarize_method
from dyslctl.report import plots
from dyslctl.report.pareto import csv_text
from dyslctl.report.pareto_figure import figure
from dyslctl.suite import Split

METHODS = ("dysl", "static", "random-skip-adapters", "dysl-paper", "oracle")
"""By default; the first is compared with the others."""
TUNE: Split = "tune"
TEST: Split = "test"


def run_pareto(workspace: Workspace, *, resume: bool, progress: Progress) -> dict[str, Any]:
    """Do all of it, save everything, and return the result's document.

    Raises:
        ConfigError: If a method is unknown, or cannot be set to one of the budgets, or no training in use knows a
            setting of the section ``distill``.
    """
    settings, names = workspace.config.pareto, _names(workspace.config.pareto.methods)
    out = workspace.run.path / "analysis" / "pareto" / workspace.suite.name
    bundles = methods.bundles(names)
    check_settings(workspace.config.distill, bundles)
    trained = {
        seed: trained_run(
            workspace, workspace.run.path / "seeds" / f"seed{seed}", seed, bundles, resume=resume, progress=progress
        )
        for seed in settings.seeds
    }
    points = [full_model(workspace.policies([]), _stage(workspace, TEST, out, resume=resume, progress=progress))]
    for seed, run in trained.items():
        tune, test = [
            _stage(run, split, out / f"seed{seed}" / split, resume=resume, progress=progress) for split in (TUNE, TEST)
        ]
        points += curves(names, run.policies(names), settings.budgets, Splits(tune, test), seed)
    document = _document(workspace, names, points)
    atomic_write(out / "points.csv", csv_text(document))
    workspace.keep(f"pareto-{workspace.suite.name}", document, out)
    return document


def _names(asked: Sequence[str] | None) -> list[str]:
    """The methods beside the full model, which is always there.

    Raises:
        ConfigError: If one is unknown, or there is none.
    """
    names = [name for name in asked or METHODS if name != BASELINE]
    for name in names:
        methods.method(name)
    if not names:
        raise ConfigError(
            f"--method: '{BASELINE}' is always there; expected another to compare with it", "--method dysl"
        )
    return names


def _stage(workspace: Workspace, split: Split, out: Path, *, resume: bool, progress: Progress) -> Stage:
    settings = workspace.config.pareto
    return Stage(
        workspace.suite,
        workspace.suite.episodes(split, settings.tune_episodes if split == TUNE else settings.episodes),
        out,
        resume,
        settings.workers,
        settings.batch or SIDE_BY_SIDE,
        progress,
    )


def _document(workspace: Workspace, names: Sequence[str], points: Sequence[Point]) -> dict[str, Any]:
    settings, backbone = workspace.config.pareto, workspace.backbone.load()
    document = {
        "schema": "dyslctl.pareto/1",
        "suite": workspace.suite.name,
        "split": TEST,
        "episodes": settings.episodes,
        "tune_split": TUNE,
        "tune_episodes": settings.tune_episodes,
        "seeds": list(settings.seeds),
        "budgets": list(settings.budgets),
        "methods": [BASELINE, *names],
        "compared": names[0],
        "num_layers": backbone.spec.num_layers,
        "max_score": workspace.suite.max_score,
        "batch": settings.batch or SIDE_BY_SIDE,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "intervals": INTERVALS,
        "points": [point_document(point) for point in points],
        **pareto(points, names[0]).as_dict(),
    }
    path = plots.save(figure(document), workspace.run.report / f"pareto_{workspace.suite.name}.png")
    caption = f"Success on {workspace.suite.name} against executed layers, with 95 % intervals."
    return {**document, "figures": {caption: str(path)}}


def point_document(point: Point) -> dict[str, Any]:
    """One seed's point."""
    setting, summary = point.setting, summarize_method(point.records)
    return {
        "method": setting.method,
        "label": setting.label,
        "budget": setting.budget,
        "seed": point.seed,
        "dial": setting.dial,
        "target_layers": setting.target_layers,
        "tune": None if setting.found is None else _tuned(setting.found),
        "episodes": summary.episodes,
        "successes": summary.successes,
        "success_rate": summary.success_rate,
        "success_ci95": summary.success_ci95,
        "mean_score": summary.avg_len,
        "layers_per_inference": summary.mean_layers_run,
        "layers_per_episode": summary.layers_per_episode,
        "inferences_per_episode": summary.inferences_per_episode,
        "verifications_per_episode": summary.verifications_per_episode,
        "llm_ms_mean": summary.llm_ms_mean,
    }


def _tuned(found: Found) -> dict[str, Any]:
    return {**asdict(found.outcome), "met": found.met, "dials_tried": len(found.tried)}
