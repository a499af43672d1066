"""``dyslctl bench``: measured where this machine is the device, predicted where it is not, published beside both.

What a method does - layers run, controllers asked, adapters passed - is always measured here, on the loaded model;
for another device ``jobs/prediction.py`` turns that into time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from dyslctl import methods
from dyslctl.backbone import Backbone
from dyslctl.devices.host import usable_cpus
from dyslctl.devices.presets import DEFAULT_STACK, LOCAL, DevicePreset, find_device, live_device
from dyslctl.dysl.policy import DySLPolicy
from dyslctl.errors import ConfigError, EnvironmentMismatch
from dyslctl.jobs.breakdown import PassShares, parts_ms, pass_shares
from dyslctl.jobs.latency import (
    DEFAULT_SERIES,
    Episodes,
    Latency,
    Series,
    controller_overhead,
    demonstration_frames,
    measure,
    measured_skip_efficiency,
)
from dyslctl.jobs.prediction import OWN, Row, choose_workload, headline, module_params, predicted_document, scaled
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.methods import SkipAssets
from dyslctl.policy import Policy
from dyslctl.reference.published import PublishedLatency, published_latency
from dyslctl.suite import TaskSuite

SCHEMA = "dyslctl.bench/1"
NEVER_SKIP = "controllers that never skip"
"""Timed beside the methods; not one of them."""
SHARES_FRAMES = 40
"""At most this many frames tell layers, controllers and adapters apart."""


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        plugin: Name of the backbone plugin, under which published rows are found.
        assets: The bundle; methods that skip need it.
    """

    plugin: str
    backbone: Backbone
    suite: TaskSuite
    assets: SkipAssets | None = None


@dataclass(frozen=True)
class BenchPlan:
    """How it is measured.

    Attributes:
        methods: Method names; ``full`` is added if it is missing.
        series: How long.
        episodes: Recorded episodes to take frames from.
        target_layers: What random skipping matches; ``None``: the mean of ``dysl``, measured first.
    """

    methods: tuple[str, ...] = ("full", "dysl")
    series: Series = DEFAULT_SERIES
    episodes: int = 4
    target_layers: float | None = None


DEFAULT_PLAN = BenchPlan()


@dataclass(frozen=True)
class Measured:
    """Every method's latency on this machine, from one interleaved series, with the controllers' cost beside."""

    latency: Mapping[str, Latency]
    shares: Mapping[str, PassShares]
    never_skip: Latency | None


def torch_device(name: str) -> str:
    """Where the backbone must be loaded for ``bench --device name``: on the GPU if that is the device asked for.

    Raises:
        ConfigError: If no device has that name.
        EnvironmentMismatch: If ``cuda`` is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise EnvironmentMismatch(
            "--device cuda: this machine has no CUDA device that torch can use",
            hint="dyslctl bench --device cpu, or name a device to predict for: dyslctl bench --device orin",
        )
    if name in LOCAL:
        return name
    find_device(name)
    return "cuda" if live_device() == name else "cpu"


def bench(
    subject: Subject,
    plan: BenchPlan = DEFAULT_PLAN,
    *,
    device: str = "cpu",
    workload: str | None = None,
    stack: str = DEFAULT_STACK,
    progress: Progress = NO_PROGRESS,
) -> dict[str, Any]:
    """The JSON document of ``dyslctl bench --json``.

    Args:
        subject: What is measured, loaded on ``torch_device(device)``.
        plan: How.
        device: ``cpu``, ``cuda`` or a preset.
        workload: For a preset that is not this machine: ``own`` or one of ``backbone.workloads()``; default: the first
            of those.
        stack: The software whose efficiency a prediction assumes.
        progress: Told of the measurement.

    Raises:
        ConfigError: If a name is unknown, a method needs a bundle and there is none, or this machine is asked to
            measure another size than the loaded one.
    """
    elsewhere = None if device in LOCAL or live_device() == device else find_device(device)
    if elsewhere is None and workload not in (None, OWN):
        raise ConfigError(
            f"--as {workload}: on this machine the loaded model is measured, at its own size",
            hint=f"dyslctl bench --device orin --as {workload}",
        )
    with _threads(subject.backbone.device):
        if elsewhere is None:
            document = _measured_document(subject, _measure(subject, plan, progress))
        else:
            document = _predicted_document(subject, plan, elsewhere, workload, stack, progress)
    rows = [*document["rows"], *map(_published_row, published_latency(device, subject.plugin))]
    return {"schema": SCHEMA, "device": device, "backbone": subject.plugin, **document, "rows": rows}


@contextmanager
def _threads(device: torch.device) -> Iterator[None]:
    """No more CPU threads than there are CPUs for them."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(min(before, usable_cpus()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measure(subject: Subject, plan: BenchPlan, progress: Progress) -> Measured:
    names = tuple(dict.fromkeys(("full", *plan.methods)))
    needs_target = any([methods.needs_target(name) for name in names])
    frames = demonstration_frames(subject.suite, plan.episodes)
    target = plan.target_layers
    if needs_target and target is None:
        target = _dysl_layers(subject, frames)
    policies = {name: _policy(subject, name, target) for name in names}
    beside = {} if subject.assets is None else {NEVER_SKIP: _never_skip(subject, subject.assets)}
    latency = measure(subject.backbone, {**policies, **beside}, frames, plan.series, progress=progress)
    never_skip = latency.pop(NEVER_SKIP, None)
    shares = pass_shares(subject.backbone, policies, frames, min(plan.series.iterations, SHARES_FRAMES))
    return Measured(latency, shares, never_skip)


def _policy(subject: Subject, name: str, target_layers: float | None) -> Policy:
    horizon = subject.suite.execute_horizon
    return methods.build(name, subject.backbone, subject.assets, execute_horizon=horizon, target_layers=target_layers)


def _never_skip(subject: Subject, assets: SkipAssets) -> Policy:
    """Every controller decides, and no probability exceeds 1."""
    settings = replace(assets.guidance, tau=1.0, tau_by_layer={})
    horizon = subject.suite.execute_horizon
    return DySLPolicy(subject.backbone, assets.modules, settings, horizon, pre_skip=False, post_skip=False)


def _dysl_layers(subject: Subject, frames: Episodes) -> float:
    once = Series(warmup=0, iterations=sum(map(len, frames)), min_seconds=0.0)
    return measure(subject.backbone, {"dysl": _policy(subject, "dysl", None)}, frames, once)["dysl"].usage.layers


def _measured_document(subject: Subject, measured: Measured) -> Row:
    full, num_layers = measured.latency["full"], subject.backbone.spec.num_layers
    rows = [
        {
            "method": name,
            "source": "measured",
            **latency.as_dict(),
            "speedup": full.mean("llm") / latency.mean("llm"),
            "end_to_end_speedup": full.mean("end_to_end") / latency.mean("end_to_end"),
            "skip_efficiency": measured_skip_efficiency(full, latency, num_layers),
            "parts_ms": parts_ms(latency, measured.shares[name]),
        }
        for name, latency in measured.latency.items()
    ]
    never = measured.never_skip
    return {
        "source": "measured",
        "num_layers": num_layers,
        "tokens": subject.backbone.workload().tokens,
        "dtype": str(subject.backbone.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "rows": rows,
        "skip_efficiency": headline(rows),
        "controller_overhead": None if never is None else controller_overhead(full.p50("llm"), never.p50("llm")),
    }


def _predicted_document(
    subject: Subject, plan: BenchPlan, device: DevicePreset, workload: str | None, stack: str, progress: Progress
) -> Row:
    name, size = choose_workload(subject.backbone, workload)
    params = module_params(size, None if subject.assets is None else subject.assets.modules.sizes)
    measured = _measure(subject, plan, progress)
    ratio = size.num_layers / subject.backbone.spec.num_layers
    usages = {method: scaled(latency.usage, ratio) for method, latency in measured.latency.items()}
    never = None if measured.never_skip is None else scaled(measured.never_skip.usage, ratio)
    return {"workload": name, **predicted_document(usages, never, device, size, params, stack)}


def _published_row(row: PublishedLatency) -> Row:
    return {
        "method": row.method,
        "source": "published",
        "llm_ms_p50": row.llm_ms,
        "end_to_end_ms_p50": row.end_to_end_ms,
        "layers_run": None,
        "speedup": row.speedup,
        "citation": row.citation,
        "flag": row.flag,
    }
