"""Evaluate methods on several suites, and put them side by side with what the papers print (Table 3 of DySL-VLA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from dyslctl import methods
from dyslctl.artifacts.files import atomic_write
from dyslctl.artifacts.fingerprint import environment
from dyslctl.cli.steps.evaluate import evaluate_suite, write_cards
from dyslctl.cli.workspace import Workspace, load_suite
from dyslctl.devices.presets import DEFAULT_STACK, find_device
from dyslctl.devices.roofline import Usage
from dyslctl.jobs.latency_prediction import choose_workload, predict_usages, unpredictable
from dyslctl.jobs.progress import Progress
from dyslctl.method_assets import Assets
from dyslctl.reference.published import published_devices, published_latency, published_success
from dyslctl.report.results import tables
from dyslctl.report.tables import to_markdown

SCHEMA = "dyslctl.suites/1"
NAME = "suites"
Row = dict[str, Any]


def run_suites(workspace: Workspace, names: Sequence[str], *, resume: bool, progress: Progress) -> dict[str, Any]:
    """Evaluate on each of ``names``, save each result and the table of all, and return the document.

    The table is ``report/suites.md`` in the run, too. Every suite is loaded before the first episode is played.
    """
    config = workspace.config
    suites = {name: load_suite(config, workspace.backbone, name) for name in names}
    found = {
        name: evaluate_suite(
            replace(workspace, suite=suite, config=config.model_copy(update={"suite": name})),
            resume=resume,
            progress=progress,
        )
        for name, suite in suites.items()
    }
    write_cards(workspace, list(found.values()))
    assets = workspace.policies(methods.with_reference(config.eval.methods)).assets()
    document = {
        "schema": SCHEMA,
        "backbone": workspace.backbone.plugin,
        "machine": environment().machine,
        "split": config.eval.split,
        "episodes": config.eval.episodes,
        "num_layers": workspace.backbone.load().spec.num_layers,
        "suites": found,
        "success": _success(found, workspace.backbone.plugin),
        "latency": [*_measured(found, workspace), *_elsewhere(found, workspace, assets)],
        "figures": {},
    }
    atomic_write(workspace.run.report / f"{NAME}.md", "\n".join(to_markdown(table) for table in tables(document)))
    workspace.keep(f"eval-{NAME}", document, workspace.run.eval(NAME))
    return document


def _success(found: Mapping[str, Row], plugin: str) -> list[Row]:
    """Ours first; a mean only where every suite has a rate."""
    names = list(next(iter(found.values()))["methods"])
    ours = [
        {
            "method": name,
            "source": "measured",
            "rates": {suite: result["methods"][name]["success_rate"] for suite, result in found.items()},
            "ci95": {suite: result["methods"][name]["success_ci95"] for suite, result in found.items()},
            "layers": _average(found, name, "mean_layers_run"),
        }
        for name in names
    ]
    printed = [{"source": "published", **asdict(row)} for row in published_success(list(found), plugin)]
    return [{**row, "mean": _mean([row["rates"].get(suite) for suite in found])} for row in [*ours, *printed]]


def _measured(found: Mapping[str, Row], workspace: Workspace) -> list[Row]:
    """The LLM's time here, mean over all inferences, if episodes were played one at a time."""
    settings = workspace.config.eval
    if settings.workers > 1 or settings.batch > 1:
        return []
    rows = []
    full = _average(found, "full", "llm_ms_mean")
    for name in settings.methods:
        ms = _average(found, name, "llm_ms_mean")
        layers = _average(found, name, "mean_layers_run")
        speedup = full / ms if full and ms else None
        where = {"device": workspace.config.model.device, "source": "measured"}
        rows.append({"method": name, **where, "llm_ms": ms, "layers_run": layers, "speedup": speedup})
    return rows


def _elsewhere(found: Mapping[str, Row], workspace: Workspace, assets: Assets) -> list[Row]:
    """On the devices of the papers: predicted at the published size from what the episodes ran, and as printed."""
    plugin, backbone = workspace.backbone.plugin, workspace.backbone.load()
    names = [name for name in workspace.config.eval.methods if unpredictable(name) is None]
    usages = {name: usage for name in names if (usage := _usage(found, name)) is not None}
    usages["full"] = Usage(backbone.spec.num_layers)
    rows = []
    for device in published_devices(plugin):
        workload, size = choose_workload(backbone, None)
        predicted = predict_usages(usages, backbone.spec.num_layers, assets, find_device(device), size, DEFAULT_STACK)
        for row in predicted["rows"]:
            kept = {key: row[key] for key in ("method", "source", "layers_run", "speedup", "band_pct", "calibration")}
            rows.append({**kept, "device": device, "llm_ms": row["llm_ms_mean"], "workload": workload})
        for printed in published_latency(device, plugin):
            rows.append({"device": device, "source": "published", "layers_run": None, **asdict(printed)})
    return rows


def _usage(found: Mapping[str, Row], name: str) -> Usage | None:
    keys = ("mean_layers_run", "controllers_per_inference", "jumps_per_inference")
    layers, controllers, jumps = (_average(found, name, key) for key in keys)
    return None if layers is None else Usage(layers, controllers or 0.0, jumps or 0.0)


def _average(found: Mapping[str, Row], name: str, key: str) -> float | None:
    """Over all inferences of all suites; ``None`` if any suite has no value."""
    results = [result["methods"].get(name, {}) for result in found.values()]
    if any(result.get(key) is None for result in results):
        return None
    counts = [result["episodes"] * result["inferences_per_episode"] for result in results]
    return float(np.average([result[key] for result in results], weights=counts))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
