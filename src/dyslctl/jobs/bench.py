"""``dyslctl bench``: measured where this machine is the device, predicted where it is not, published beside both.

What a method does - layers run, controllers asked, adapters passed - is always measured here, on the loaded model;
for another device ``jobs/latency_prediction.py`` turns that into time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from dyslctl import methods
from dyslctl.artifacts.fingerprint import environment
from dyslctl.backbone import Backbone
from dyslctl.devices.host import usable_cpus
from dyslctl.devices.power import PowerMeter, power_state
from dyslctl.devices.presets import DEFAULT_STACK, LOCAL, DevicePreset, find_device, live_device
from dyslctl.devices.roofline import find_stack
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
from dyslctl.jobs.latency_prediction import (
    NEVER_SKIP,
    OWN,
    Row,
    choose_workload,
    headline,
    predict_usages,
    unpredictable,
    untimed,
)
from dyslctl.jobs.layer_rivals import compare
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.jobs.token_sweep import alike, measured_sweep, predicted_sweep, token_counts
from dyslctl.method_assets import NO_ASSETS, Assets, Setup
from dyslctl.policy import Policy
from dyslctl.pruning.settings import PRUNING, PruningSettings
from dyslctl.reference.published import PublishedLatency, published_latency
from dyslctl.runtime.packed import EAGER
from dyslctl.suite import TaskSuite

SCHEMA = "dyslctl.bench/1"
SHARES_FRAMES = 40
"""At most this many frames tell layers, controllers and adapters apart."""


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        plugin: Name of the backbone plugin, under which published rows are found.
        assets: The bundles; methods that skip need them.
        backend: What runs the layers of ``backbone``.
        upstream: The same weights on ``eager``, to compare with.
    """

    plugin: str
    backbone: Backbone
    suite: TaskSuite
    assets: Assets = NO_ASSETS
    backend: str = EAGER
    upstream: Backbone | None = None


@dataclass(frozen=True)
class BenchPlan:
    """How it is measured.

    Attributes:
        methods: Method names; ``full`` is added if it is missing.
        series: How long.
        episodes: Recorded episodes to take frames from.
        target_layers: What random skipping matches; ``None``: the mean of ``methods.reference``, measured first.
        pruning: What methods that prune tokens are told.
        compare: What else runs the same layers, of ``comparison.RIVALS``; needs ``Subject.upstream``.
        tokens: Numbers of tokens on which the full pass is timed, or predicted, too.
    """

    methods: tuple[str, ...] = ("full", "dysl")
    series: Series = DEFAULT_SERIES
    episodes: int = 4
    target_layers: float | None = None
    pruning: PruningSettings = PRUNING
    compare: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()


DEFAULT_PLAN = BenchPlan()


@dataclass(frozen=True)
class Measured:
    """Every method's latency on this machine, from one interleaved series, with the controllers' cost beside."""

    latency: Mapping[str, Latency]
    shares: Mapping[str, PassShares]
    never_skip: Latency | None


def torch_device(name: str, own: str) -> str:
    """Where the backbone must be loaded for ``bench --device name``: on that device if it is here, else on ``own``.

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
    return "cuda" if live_device() == name else own


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
        ConfigError: If a name is unknown, a method needs a bundle and there is none, its time means nothing, or this
            machine is asked to measure another size than the loaded one.
    """
    _refuse_untimed(plan.methods)
    elsewhere = None if device in LOCAL or live_device() == device else find_device(device)
    if elsewhere is None and workload not in (None, OWN):
        raise ConfigError(
            f"--as {workload}: on this machine the loaded model is measured, at its own size",
            hint=f"dyslctl bench --device orin --as {workload}",
        )
    if elsewhere is not None and (plan.compare or subject.backend != EAGER):
        raise ConfigError(
            "--backend and --compare: what runs the layers is measured here; a prediction stands for a stack",
            hint="--device cpu, or --set bench.stack=graph for a prediction",
        )
    with _threads(subject.backbone.device):
        if elsewhere is None:
            document = _measured_here(subject, plan, progress)
        else:
            document = _predicted_document(subject, plan, elsewhere, workload, stack, progress)
    rows = [*document["rows"], *map(_published_row, published_latency(device, subject.plugin))]
    about = {"schema": SCHEMA, "device": device, "machine": environment().machine, "backbone": subject.plugin}
    about["backend"] = subject.backend
    return {**about, **document, "rows": rows}


def _measured_here(subject: Subject, plan: BenchPlan, progress: Progress) -> Row:
    power, meter, frames = power_state(), PowerMeter(), demonstration_frames(subject.suite, plan.episodes)
    counts = token_counts(subject.backbone, frames, plan.tokens) if plan.tokens else []
    with meter:
        measured = _measure(subject, plan, frames, progress)
    document = _measured_document(subject, measured)
    document["compared"] = _compared(subject, plan, frames, progress)
    document["tokens_sweep"] = _measured_sweep(subject, plan, frames, counts, progress)
    document["power_mode"] = power.mode
    document["power"] = {**power.as_dict(), "watts_mean": meter.watts}
    return document


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


def _measure(subject: Subject, plan: BenchPlan, frames: Episodes, progress: Progress) -> Measured:
    names = tuple(dict.fromkeys(("full", *plan.methods)))
    needs_target = any([methods.needs_target(name) for name in names])
    target = plan.target_layers
    if needs_target and target is None:
        target = _mean_layers(subject, methods.reference(names), frames)
    policies = {name: _policy(subject, name, target, pruning=plan.pruning) for name in names}
    beside = _never_skip(subject, names)
    latency = measure(subject.backbone, {**policies, **beside}, frames, plan.series, progress=progress)
    never_skip = latency.pop(NEVER_SKIP, None)
    pruning = {name for name in names if methods.method(name).prunes}
    looks = min(plan.series.iterations, SHARES_FRAMES)
    shares = pass_shares(policies, frames, looks, pruning=pruning)
    return Measured(latency, shares, never_skip)


def _measured_sweep(
    subject: Subject, plan: BenchPlan, frames: Episodes, counts: Sequence[int], progress: Progress
) -> list[Row]:
    if not counts:
        return []
    shown, horizon = alike(subject.backbone, frames), subject.suite.execute_horizon
    return measured_sweep(subject.backbone, shown, counts, plan.series, horizon, progress)


def _compared(subject: Subject, plan: BenchPlan, frames: Episodes, progress: Progress) -> list[Row]:
    if not plan.compare:
        return []
    shown = [frame for episode in frames for frame in episode]
    upstream = subject.upstream or subject.backbone
    return compare(subject.backbone, upstream, plan.compare, shown, plan.series, progress=progress)


def _policy(
    subject: Subject,
    name: str,
    target_layers: float | None = None,
    dial: float | None = None,
    pruning: PruningSettings = PRUNING,
) -> Policy:
    setup = Setup(
        subject.backbone,
        subject.suite.execute_horizon,
        assets=subject.assets,
        target_layers=target_layers,
        dial=dial,
        pruning=pruning,
    )
    return methods.build(name, setup)


def _never_skip(subject: Subject, names: Iterable[str]) -> dict[str, Policy]:
    """The reference method with its dial at the end where every decision falls for running; none if none can skip.

    Choosing tokens is no such decision: of methods that do both, the one that skips layers is asked alone.
    """
    name = methods.reference(name for name in names if not methods.method(name).fewer_tokens)
    name = "dysl-paper-no-pre" if name.startswith("dysl-paper") else name
    dial = methods.method(name).dial
    if dial is None or methods.method(name).bundle not in subject.assets.bundles:
        return {}
    return {NEVER_SKIP: _policy(subject, name, dial=dial.low)}


def _mean_layers(subject: Subject, name: str, frames: Episodes) -> float:
    once = Series(warmup=0, iterations=sum(map(len, frames)), min_seconds=0.0)
    return measure(subject.backbone, {name: _policy(subject, name)}, frames, once)[name].usage.layers


def _measured_document(subject: Subject, measured: Measured) -> Row:
    full, num_layers = measured.latency["full"], subject.backbone.spec.num_layers
    rows = [
        {
            "method": name,
            "source": "measured",
            **latency.as_dict(),
            "speedup": full.mean("llm") / latency.mean("llm"),
            "end_to_end_speedup": full.mean("end_to_end") / latency.mean("end_to_end"),
            "skip_efficiency": _skip_efficiency(name, full, latency, num_layers),
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


def _skip_efficiency(name: str, full: Latency, latency: Latency, num_layers: int) -> float | None:
    """Of layers that cost alike: none, where they see fewer tokens."""
    return None if methods.method(name).fewer_tokens else measured_skip_efficiency(full, latency, num_layers)


def _predicted_document(
    subject: Subject, plan: BenchPlan, device: DevicePreset, workload: str | None, stack: str, progress: Progress
) -> Row:
    for method in plan.methods:
        if why := unpredictable(method):
            raise ConfigError(why, hint=f"dyslctl bench --device cpu --method {method} measures it here")
    find_stack(device, stack)
    name, size = choose_workload(subject.backbone, workload)
    sweep = predicted_sweep(device, size, plan.tokens, stack) if plan.tokens else []
    measured = _measure(subject, plan, demonstration_frames(subject.suite, plan.episodes), progress)
    usages = {method: latency.usage for method, latency in measured.latency.items()}
    never = None if measured.never_skip is None else measured.never_skip.usage
    layers = subject.backbone.spec.num_layers
    document = predict_usages(usages, layers, subject.assets, device, size, stack, never_skip=never)
    return {"workload": name, **document, "tokens_sweep": sweep}


def _refuse_untimed(names: Sequence[str]) -> None:
    for name in names:
        if why := untimed(name):
            raise ConfigError(why, hint="eval and analyze pareto take it")


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
