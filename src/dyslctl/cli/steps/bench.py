"""Measure or predict the latency of a run's methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dyslctl import methods
from dyslctl.artifacts.files import make_folder
from dyslctl.cli.steps.recorded import trained_suite
from dyslctl.cli.workspace import Workspace
from dyslctl.errors import ConfigError
from dyslctl.jobs.bench import BenchPlan, Subject, bench, torch_device
from dyslctl.jobs.latency import Series
from dyslctl.jobs.layer_rivals import UPSTREAM
from dyslctl.jobs.progress import Progress
from dyslctl.report import plots
from dyslctl.runtime.packed import EAGER, with_backend


def run_bench(workspace: Workspace, device: str, size: str | None, progress: Progress) -> dict[str, Any]:
    """Measure or predict, save everything, and return the result's document.

    A run that learnt from recorded episodes is timed on frames of those that were held out.
    """
    settings = workspace.config.bench
    backend = workspace.backbone.backend
    compared = compared_with(settings.compare, backend)
    # One load serves both sides of a comparison: of the plugin's own layers, with the packed ones beside them.
    where = torch_device(device, workspace.backbone.device)
    as_loaded = replace(workspace.backbone, device=where, backend=EAGER if compared else backend)
    workspace = replace(workspace, backbone=as_loaded)
    recipe = workspace.policies(methods.with_reference(settings.methods))
    assets = recipe.assets()
    suite = trained_suite(workspace, assets.execute_horizon) or workspace.suite
    loaded = as_loaded.load()
    backbone = with_backend(loaded, backend, keep=True) if compared else loaded
    subject = Subject(as_loaded.plugin, backbone, suite, assets, backend, loaded if compared else None)
    out = make_folder(workspace.run.bench(device))
    series = Series(settings.warmup, settings.iterations, settings.min_seconds)
    document = bench(
        subject,
        BenchPlan(
            settings.methods,
            series,
            settings.episodes,
            pruning=workspace.config.pruning.settings(),
            compare=compared,
            tokens=settings.tokens,
        ),
        device=device,
        workload=size,
        stack=settings.stack,
        progress=progress,
    )
    document["bundles"] = recipe.digests()
    document["figures"] = _draw(document, workspace)
    workspace.keep(f"bench-{device}", document, out)
    return document


def compared_with(asked: Sequence[str], backend: str) -> tuple[str, ...]:
    """What the layers are compared with. What changes their numbers is always shown beside the upstream ones.

    Raises:
        ConfigError: If ``eager`` is to be compared with itself.
    """
    if backend == EAGER and UPSTREAM in asked:
        raise ConfigError("--compare eager: that is the backend itself", hint="--backend packed --compare eager")
    return tuple(dict.fromkeys((*([] if backend == EAGER else [UPSTREAM]), *asked)))


def _draw(document: dict[str, Any], workspace: Workspace) -> dict[str, str]:
    device = document["device"]
    rows = {f"{row['method']}\n{row['source']}": row["parts_ms"] for row in document["rows"] if "parts_ms" in row}
    path = plots.save(plots.latency_breakdown(rows), workspace.run.report / f"latency_{device}.png")
    figures = {f"Where the time of one inference goes on {device} (Fig. 10).": str(path)}
    if document["tokens_sweep"]:
        path = plots.save(
            plots.token_staircase(document["tokens_sweep"]), workspace.run.report / f"tokens_{device}.png"
        )
        figures[f"Time of the full pass on fewer tokens on {device}, {document['source']}."] = str(path)
    return figures
