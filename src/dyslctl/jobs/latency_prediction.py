"""From what the methods did here to what they would take on a device that is not here.

What an average inference runs beside layers is scaled to the model there as ``jobs/charges.py`` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dyslctl import methods
from dyslctl.backbone import Backbone, Workload
from dyslctl.devices.presets import DevicePreset
from dyslctl.devices.roofline import ModuleParams, Prediction, Usage, predict
from dyslctl.errors import ConfigError
from dyslctl.jobs.charges import module_params, scaled
from dyslctl.jobs.latency import controller_overhead, skip_efficiency
from dyslctl.jobs.trained_methods import TRAINED
from dyslctl.method_assets import Assets
from dyslctl.plugins import did_you_mean

NEVER_SKIP = "decisions that never skip"
"""Timed beside the methods; not one of them."""
OWN = "own"
"""Workload name: the loaded model's own size."""
Row = dict[str, Any]


def choose_workload(backbone: Backbone, name: str | None) -> tuple[str, Workload]:
    """The size to predict for, and its name; by default the first published one.

    Raises:
        ConfigError: If there is none of that name.
    """
    sizes = {**backbone.workloads(), OWN: backbone.workload()}
    chosen = next(iter(sizes)) if name is None else name
    if chosen not in sizes:
        raise ConfigError(
            f"no workload named '{chosen}'.{did_you_mean(chosen, list(sizes))}\n  known: {', '.join(sizes)}",
            hint=f"--as {next(iter(sizes))}",
        )
    return chosen, sizes[chosen]


def untimed(method: str) -> str | None:
    """Why the time of ``method`` means nothing, if that is so."""
    if methods.method(method).privileged:
        return f"'{method}' runs the whole model to know what it may skip: there is nothing to time"
    return None


def unpredictable(method: str) -> str | None:
    """Why there is no prediction for ``method``, if that is so."""
    if methods.method(method).fewer_tokens:
        return f"'{method}' runs its layers on fewer tokens: there is no prediction for that yet"
    return untimed(method)


def predict_usages(
    usages: Mapping[str, Usage],
    num_layers: int,
    assets: Assets,
    preset: DevicePreset,
    workload: Workload,
    stack: str,
    *,
    never_skip: Usage | None = None,
) -> Row:
    """Rows and headline figures, predicted.

    Args:
        usages: Method -> what its average inference executes here; ``full`` among them.
        num_layers: Of the backbone here.
        assets: What the methods run beside layers.
        preset: The device.
        workload: The inference there.
        stack: The software whose efficiency is assumed.
        never_skip: As ``usages``, for decisions that are always asked for and never skip.
    """
    ratio, reference = workload.num_layers / num_layers, methods.reference(usages)
    there = {name: _usage(name, usage, ratio) for name, usage in usages.items()}
    predictions = {
        name: predict(preset, workload, usage, _params(assets, name, workload), stack) for name, usage in there.items()
    }
    full = predictions["full"]
    rows = [_row(name, predictions[name], usage, full, workload.num_layers) for name, usage in there.items()]
    overhead = None
    if never_skip is not None:
        asked = _usage(reference, never_skip, ratio)
        never = predict(preset, workload, asked, _params(assets, reference, workload), stack)
        overhead = controller_overhead(full.llm_ms, never.llm_ms)
    return {
        "source": "predicted",
        "device_title": preset.title,
        "stack": stack,
        "bound_only": full.bound_only,
        "num_layers": workload.num_layers,
        "tokens": workload.tokens,
        "rows": rows,
        "skip_efficiency": headline(rows),
        "controller_overhead": overhead,
    }


def headline(rows: Sequence[Row]) -> float | None:
    """The skip efficiency of ``dysl``, ``None`` if it skipped nothing; without it the first one there is."""
    found = {row["method"]: row["skip_efficiency"] for row in rows}
    return found["dysl"] if "dysl" in found else next((each for each in found.values() if each is not None), None)


def _usage(method: str, usage: Usage, ratio: float) -> Usage:
    """What ``method`` does there that did ``usage`` here."""
    bundle = methods.method(method).bundle
    return replace(scaled(usage, ratio), jumps=0.0) if bundle is None else TRAINED[bundle].charge.usage(usage, ratio)


def _params(assets: Assets, method: str, size: Workload) -> ModuleParams:
    """Sizes of what ``method`` runs beside layers."""
    bundle = methods.method(method).bundle
    return module_params(size, None) if bundle is None else TRAINED[bundle].params(assets, size)


def _row(name: str, prediction: Prediction, usage: Usage, full: Prediction, num_layers: int) -> Row:
    skipped = 1 - usage.layers / num_layers
    return {
        "method": name,
        "source": "predicted",
        # The average inference is predicted, which has no percentiles: both keys hold it.
        "llm_ms_p50": prediction.llm_ms,
        "llm_ms_mean": prediction.llm_ms,
        "end_to_end_ms_p50": prediction.end_to_end_ms,
        "layers_run": usage.layers,
        "controllers_per_inference": usage.controllers,
        "jumps_per_inference": usage.jumps,
        "speedup": full.llm_ms / prediction.llm_ms,
        "end_to_end_speedup": full.end_to_end_ms / prediction.end_to_end_ms,
        "skip_efficiency": skip_efficiency(full.llm_ms, prediction.llm_ms, skipped) if skipped > 0 else None,
        "parts_ms": prediction.parts_ms,
        "band_pct": prediction.band_pct,
        "calibration": prediction.calibration,
    }
