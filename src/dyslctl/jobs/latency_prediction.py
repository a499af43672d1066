"""From what the methods did here to what they would take on a device that is not here.

The three counts of an inference - layers, controllers, adapters - are scaled by the ratio of the layer counts: the
static share and the length of the segments are taken to stay the same. A method that has no bundle jumps without an
adapter. Exits are planned and taken once, whatever the depth; their adapter is charged for all tokens, though it sees
only some. ``deer`` tries more exits in a deeper model, each with an adapter and a head, and predicts once more where no
exit ends the inference; whether two actions agree costs a decision without parameters. ``mole`` asks its router once,
which is charged as an adapter, since it reads all tokens, and as such a decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from dyslctl import methods
from dyslctl.backbone import Backbone, Workload
from dyslctl.baselines.mole import LayerRouter, MixtureSizes
from dyslctl.devices.presets import DevicePreset
from dyslctl.devices.roofline import ModuleParams, Prediction, Usage, predict
from dyslctl.dysl.exits import ExitAdapter, ExitPlanner, ExitSizes, default_rank
from dyslctl.dysl.skip_modules import Adapter, SkippingController, SkipSizes, dysl_sizes
from dyslctl.errors import ConfigError
from dyslctl.jobs.latency import controller_overhead, skip_efficiency
from dyslctl.method_assets import Assets
from dyslctl.plugins import did_you_mean

NEVER_SKIP = "decisions that never skip"
"""Timed beside the methods; not one of them."""
OWN = "own"
"""Workload name: the loaded model's own size."""
BY_EXITS = ("dysl", "static")
"""Bundles of methods that decide once an inference."""
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


def module_params(workload: Workload, own: SkipSizes | None) -> ModuleParams:
    """Parameters of an adapter and a controller at the workload's size: the bundle's, or the paper's for that size."""
    hidden_size = workload.hidden_size
    sizes = own if own is not None and own.hidden_size == hidden_size else dysl_sizes(hidden_size)
    with torch.device("meta"):
        adapter = Adapter(hidden_size, sizes.adapter_rank)
        controller = SkippingController(hidden_size, sizes.controller_width)
    return ModuleParams(_count(adapter), _count(controller))


def exit_params(workload: Workload, own: ExitSizes, exits: int) -> ModuleParams:
    """The same for exits; the planner takes the controller's place."""
    width = workload.hidden_size
    sizes = own if own.hidden_size == width else replace(own, hidden_size=width, adapter_rank=default_rank(width))
    with torch.device("meta"):
        adapter, planner = ExitAdapter(sizes), ExitPlanner(sizes, exits)
    return ModuleParams(_count(adapter), _count(planner))


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
    """DySL's skip efficiency, or the first one there is."""
    known = {row["method"]: row["skip_efficiency"] for row in rows if row["skip_efficiency"] is not None}
    return known.get("dysl", next(iter(known.values()), None))


def scaled(usage: Usage, ratio: float, *, once: bool = False) -> Usage:
    """The same behaviour on a backbone with ``ratio`` times as many layers; ``once``: it decides once an inference."""
    if once:
        return Usage(usage.layers * ratio, usage.controllers, usage.jumps)
    return Usage(usage.layers * ratio, usage.controllers * ratio, usage.jumps * ratio)


def _usage(method: str, usage: Usage, ratio: float) -> Usage:
    """What ``method`` does there that did ``usage`` here."""
    bundle = methods.method(method).bundle
    if bundle == "deer":
        return _tried(usage, ratio)
    if bundle == "mole":
        return Usage(usage.layers * ratio, controllers=1.0, jumps=1.0)
    there = scaled(usage, ratio, once=bundle in BY_EXITS)
    return replace(there, jumps=0.0) if bundle is None else there


def _tried(usage: Usage, ratio: float) -> Usage:
    """Of ``deer``: it asks whether an exit agrees with the one before, so one more was tried.

    It reports a jump where an exit ended the inference; elsewhere the whole model predicts after the exits.
    """
    exits = max((usage.controllers + 1) * ratio, 1.0)
    return Usage(usage.layers * ratio, controllers=exits - 1, jumps=exits, heads=exits + 1 - usage.jumps)


def _params(assets: Assets, method: str, size: Workload) -> ModuleParams:
    """Sizes of what ``method`` runs beside layers."""
    bundle = methods.method(method).bundle
    if bundle == "mole":
        with torch.device("meta"):
            router = LayerRouter(MixtureSizes.default(size.hidden_size, size.num_layers))
        return ModuleParams(_count(router), 0)
    trained = {"dysl": assets.exits, "static": assets.static, "deer": assets.deer}
    exits = None if bundle is None else trained.get(bundle)
    if exits is not None:
        params = exit_params(size, exits.modules.sizes, len(exits.modules.exits))
        return replace(params, controller=0) if bundle == "deer" else params
    paper = assets.flexidepth if bundle == "flexidepth" else assets.paper
    return module_params(size, None if paper is None else paper.modules.sizes)


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


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
