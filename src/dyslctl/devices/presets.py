"""Device presets: the numbers of ``presets.yaml``, each with where it comes from, and which one this machine is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator

from dyslctl.artifacts.document import Document, Part
from dyslctl.artifacts.strict_yaml import parse_yaml
from dyslctl.backbone import Workload
from dyslctl.errors import ConfigError
from dyslctl.plugins import did_you_mean

DEFAULT_STACK = "paper-eager"
LOCAL = ("cpu", "cuda")
"""Device names that always mean this machine."""
BOARD_FILE = Path("/proc/device-tree/model")
"""Where ARM boards, Jetsons among them, tell their name."""


class Quantity(Part):
    """A number and how far to trust it; the words are explained at the top of ``presets.yaml``."""

    value: PositiveFloat
    status: Literal["source", "computed", "memory", "estimate"]
    source: str


class Model(Part):
    """Sizes of a model whose published latency calibrates a stack; as :class:`dyslctl.backbone.Workload`."""

    num_layers: PositiveInt
    hidden_size: PositiveInt
    layer_params: PositiveInt
    encode_gflop: PositiveFloat
    encode_params: PositiveInt
    head_gflop: PositiveFloat
    head_params: PositiveInt


class Calibration(Part):
    """One row of the full model on one device, from which a stack's efficiency follows.

    Attributes:
        row: What was printed, and where.
        model: Key of ``models``.
        tokens: ``T`` of the row, usually assumed.
        assumed: What the row does not say and we took for granted.
        measure: What was printed: latency of all decoder layers (ms), of the whole inference (ms), or model FLOPs
            utilisation (achieved / peak).
        value: Its value.
        llm_share: Published share of the LLM in the whole inference.
        encode_scale: Vision work of the row relative to ``model`` (3 images instead of 2: 1.5).
    """

    basis: Literal["published", "proxy", "guess"]
    row: str
    model: str
    tokens: PositiveInt
    assumed: str
    measure: Literal["llm_ms", "end_to_end_ms", "mfu"]
    value: PositiveFloat
    llm_share: PositiveFloat | None = None
    encode_scale: PositiveFloat = 1.0


class Stack(Part):
    """A way of running the model on a device.

    Attributes:
        host_us: Least time of a layer, us: what the host needs to launch it.
        decision_us: One skipping controller until the host knows its answer, us.
    """

    host_us: Quantity
    decision_us: Quantity
    calibration: Calibration


class DevicePreset(Part):
    """One device. ``boards`` are parts of the device-tree name, ``gpu_names`` whole names CUDA reports."""

    title: str
    boards: tuple[str, ...]
    gpu_names: tuple[str, ...]
    peak_tflops: Quantity
    bandwidth_gbs: Quantity
    watts: Quantity
    stacks: Mapping[str, Stack]

    def is_machine(self, gpu: str | None, board: str | None) -> bool:
        """Whether a machine with these names is this device."""
        if board is not None and any(part in board for part in self.boards):
            return True
        # All Jetson modules call their GPU "Orin": where a board has a name, only that name counts.
        return gpu in self.gpu_names and not (board is not None and self.boards)


class DevicePresets(Document):
    """The content of ``presets.yaml``."""

    SCHEMA: ClassVar[str] = "dyslctl.devices/1"

    models: Mapping[str, Model]
    devices: Mapping[str, DevicePreset]

    @model_validator(mode="after")
    def _known_models(self) -> Self:
        for name, device in self.devices.items():
            for stack in device.stacks.values():
                if stack.calibration.model not in self.models:
                    raise ValueError(f"device '{name}': no model '{stack.calibration.model}'")
        return self


@cache
def load_presets() -> DevicePresets:
    """The shipped presets."""
    text = files("dyslctl.devices").joinpath("presets.yaml").read_text(encoding="utf-8")
    return DevicePresets.parse(parse_yaml(text, "presets.yaml"), "presets.yaml")


def device_names() -> list[str]:
    """What ``--device`` takes: this machine's processors, then the presets."""
    return [*LOCAL, *load_presets().devices]


def find_device(name: str) -> DevicePreset:
    """The preset called ``name``.

    Raises:
        ConfigError: If there is none.
    """
    devices = load_presets().devices
    if name not in devices:
        known = device_names()
        raise ConfigError(
            f"no device named '{name}'.{did_you_mean(name, known)}\n  known: {', '.join(known)}",
            hint="dyslctl bench --device cpu measures on this machine",
        )
    return devices[name]


def live_device() -> str | None:
    """The preset that this machine is, or ``None``."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    board = BOARD_FILE.read_text(encoding="utf-8").strip("\0\n") if BOARD_FILE.is_file() else None
    matches = (name for name, preset in load_presets().devices.items() if preset.is_machine(gpu, board))
    return next(matches, None)


def calibration_workload(calibration: Calibration) -> Workload:
    """The inference that a calibration row timed."""
    model = load_presets().models[calibration.model]
    return Workload(
        num_layers=model.num_layers,
        tokens=calibration.tokens,
        hidden_size=model.hidden_size,
        layer_params=model.layer_params,
        encode_gflop=model.encode_gflop * calibration.encode_scale,
        encode_params=model.encode_params,
        head_gflop=model.head_gflop,
        head_params=model.head_params,
    )
