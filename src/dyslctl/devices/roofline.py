"""How long one inference takes on a device that is not here: a roofline with one calibrated efficiency.

    T = T_encode + sum_kept t_layer + N_ctrl t_ctrl + N_jump T_adapter + N_head T_head
    t_layer = max(host, max(F / (eta_c P), W / (eta_b BW)) + E / (eta_b BW))
    F = 2 p n + 4 n^2 d      p parameters of a layer, n tokens, d hidden size; attention is bidirectional

``P`` peak FLOP/s, ``BW`` bytes/s, ``W`` weight bytes, ``E`` bytes that the element-wise kernels between the GEMMs move.
A GEMM streams its weights while it computes; element-wise kernels overlap with nothing. ``eta_c`` follows from one row
of the full model (:class:`dyslctl.devices.presets.Calibration`), so the model reproduces that row by construction.

Transferring published rows of one device to another with this model missed them by 7.1 % on average (4.0 % without the
random-skip row); tests/devices/test_roofline.py repeats that. Hence the band of 10 % - and none where nothing was
calibrated, or where the host binds instead of the GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dyslctl.backbone import Workload
from dyslctl.devices.presets import (
    DEFAULT_STACK,
    Calibration,
    DevicePreset,
    Stack,
    calibration_workload,
    load_presets,
)
from dyslctl.errors import ConfigError
from dyslctl.plugins import did_you_mean

BAND_PCT = 10.0
BYTES = 2
"""Per parameter and activation: bf16."""
ELEMENTWISE_PASSES = 12
"""Reads and writes of ``[T, H]`` by the norms, residuals, rotary and gate kernels of one layer."""
ADAPTER_PASSES = 6
"""The same for an adapter: norm, activation, residual."""
BANDWIDTH_EFFICIENCY = 0.8
"""``eta_b``, assumed for every device."""


@dataclass(frozen=True)
class ModuleParams:
    """Parameters of one adapter and of one skipping controller."""

    adapter: int
    controller: int


NO_SKIPPING = ModuleParams(0, 0)


@dataclass(frozen=True)
class Usage:
    """What one inference executes, on average; re-predictions are counted in.

    Attributes:
        layers: Decoder layers run.
        controllers: Skipping controllers evaluated.
        jumps: Adapters passed through.
        heads: Predictions of the head.
    """

    layers: float
    controllers: float = 0.0
    jumps: float = 0.0
    heads: float = 1.0


@dataclass(frozen=True)
class Prediction:
    """A predicted latency; never to be mixed with measured ones.

    Attributes:
        llm_ms: Layers, controllers and adapters, ms.
        end_to_end_ms: The whole inference, ms.
        parts_ms: ``encode, layers, controllers, adapters, head``, ms.
        band_pct: Error band of ``llm_ms`` in percent, ``None`` where no calibration supports one.
        calibration: The row the efficiency comes from, and what it assumes.
        bound_only: Nothing calibrated: a lower bound that the hardware sets, not an expectation.
    """

    llm_ms: float
    end_to_end_ms: float
    parts_ms: dict[str, float]
    band_pct: float | None
    calibration: str
    bound_only: bool


@dataclass(frozen=True)
class _Rates:
    """A device under a stack: FLOP/s, bytes/s, and the host's seconds a layer and a decision."""

    layer_flops: float
    encode_flops: float
    bandwidth: float
    elementwise_bandwidth: float
    host: float = 0.0
    decision: float = 0.0

    def gemm(self, flop: float, params: float) -> float:
        """Seconds of matrix products that stream ``params`` weights."""
        return max(flop / self.layer_flops, params * BYTES / self.bandwidth)

    def elementwise(self, workload: Workload, passes: int) -> float:
        return passes * workload.tokens * workload.hidden_size * BYTES / self.elementwise_bandwidth

    def on_gpu(self, workload: Workload) -> float:
        """Seconds of one decoder layer if the host never binds."""
        products = self.gemm(layer_flop(workload), workload.layer_params)
        return products + self.elementwise(workload, ELEMENTWISE_PASSES)

    def layer(self, workload: Workload) -> float:
        return max(self.host, self.on_gpu(workload))

    def controller(self, params: int) -> float:
        return self.decision + params * BYTES / self.bandwidth

    def adapter(self, workload: Workload, params: int) -> float:
        return self.gemm(2 * params * workload.tokens, params) + self.elementwise(workload, ADAPTER_PASSES)

    def around(self, gflop: float, params: int) -> float:
        """Seconds of the vision encoder or the head."""
        return max(gflop * 1e9 / self.encode_flops, params * BYTES / self.bandwidth)


def layer_flop(workload: Workload) -> float:
    """``F = 2 p n + 4 n^2 d`` of one decoder layer, FLOP."""
    n = workload.tokens
    return 2.0 * workload.layer_params * n + 4.0 * n * n * workload.hidden_size


def predict(
    device: DevicePreset,
    workload: Workload,
    usage: Usage,
    params: ModuleParams = NO_SKIPPING,
    stack: str = DEFAULT_STACK,
) -> Prediction:
    """The latency of one inference of ``workload`` on ``device``.

    Raises:
        ConfigError: If no device has a stack of that name.
    """
    way = find_stack(device, stack)
    rates = _rates(device, way)
    parts = {
        "encode": rates.around(workload.encode_gflop, workload.encode_params),
        "layers": usage.layers * rates.layer(workload),
        "controllers": usage.controllers * rates.controller(params.controller),
        "adapters": usage.jumps * rates.adapter(workload, params.adapter),
        "head": usage.heads * rates.around(workload.head_gflop, workload.head_params),
    }
    parts_ms = {name: seconds * 1e3 for name, seconds in parts.items()}
    host_bound = rates.host > rates.on_gpu(workload)
    return Prediction(
        llm_ms=sum(parts_ms[name] for name in ("layers", "controllers", "adapters")),
        end_to_end_ms=sum(parts_ms.values()),
        parts_ms=parts_ms,
        band_pct=BAND_PCT if way and way.calibration.basis == "published" and not host_bound else None,
        calibration=_describe(way, stack) + (" Host-bound: set by an estimate of launch cost." if host_bound else ""),
        bound_only=way is None,
    )


def find_stack(device: DevicePreset, name: str) -> Stack | None:
    """The stack, or ``None`` if this device is not calibrated for it.

    Raises:
        ConfigError: If no device has a stack of that name.
    """
    known = sorted({stack for preset in load_presets().devices.values() for stack in preset.stacks})
    if name not in known:
        raise ConfigError(
            f"no stack named '{name}'.{did_you_mean(name, known)}\n  known: {', '.join(known)}",
            hint="--set bench.stack=NAME",
        )
    return device.stacks.get(name)


def _rates(device: DevicePreset, stack: Stack | None) -> _Rates:
    peak, bandwidth = device.peak_tflops.value * 1e12, device.bandwidth_gbs.value * 1e9
    if stack is None:
        # A bound must not count what a better kernel could fuse away.
        return _Rates(peak, peak, bandwidth, elementwise_bandwidth=math.inf)
    achieved = BANDWIDTH_EFFICIENCY * bandwidth
    layer_flops, encode_flops = _calibrate(stack.calibration, peak, achieved)
    host, decision = stack.host_us.value * 1e-6, stack.decision_us.value * 1e-6
    return _Rates(layer_flops, encode_flops, achieved, achieved, host, decision)


def _calibrate(row: Calibration, peak: float, bandwidth: float) -> tuple[float, float]:
    """FLOP/s ``eta_c P`` of the layers, and of vision and head, such that the full model takes what ``row`` says."""
    workload = calibration_workload(row)
    layer, around = layer_flop(workload), (workload.encode_gflop + workload.head_gflop) * 1e9
    layers = workload.num_layers * layer
    achieved = {
        "llm_ms": layers / row.value * 1e3,
        "end_to_end_ms": (layers + around) / row.value * 1e3,
        "mfu": row.value * peak,
    }[row.measure]
    elementwise = ELEMENTWISE_PASSES * workload.tokens * workload.hidden_size * BYTES / bandwidth
    layer_flops = layer / (layer / achieved - elementwise)
    if row.llm_share is None:
        return layer_flops, achieved
    around_seconds = layers / achieved * (1 / row.llm_share - 1)
    return layer_flops, around / around_seconds


def _describe(stack: Stack | None, name: str) -> str:
    if stack is None:
        return f"bound only: no published row calibrates '{name}' on this device; 100 % of peak"
    row = stack.calibration
    kind = {"published": "calibrated on", "proxy": "no row of this model; proxy:", "guess": "not calibrated; guess:"}
    return f"{name}, {kind[row.basis]} {row.row}. Assumed: {row.assumed}."
