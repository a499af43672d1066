"""Load a checkpoint's weights. Strict: whatever is wrong with any tensor is found before anything runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dyslctl.errors import ArtifactError
from dyslctl_openvla_oft import layout
from dyslctl_openvla_oft.config import AttentionImplementation, OFTConfig
from dyslctl_openvla_oft.modeling import OFTModel


def load_model(
    folder: Path,
    config: OFTConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attn_implementation: AttentionImplementation = "sdpa",
) -> OFTModel:
    """Read the weights of ``folder`` into a frozen model in eval mode.

    Raises:
        ArtifactError: If a file is missing, ambiguous or damaged, or with every tensor that is missing, unexpected,
            of another shape than ``config`` says, or not finite in ``dtype``.
    """
    with torch.device("meta"):
        model = OFTModel(config, attn_implementation)
    intake = _Intake(model.state_dict(), torch.device(device), dtype)
    components = {component: component_file(folder, component) for component in layout.COMPONENTS}
    _take_shards(folder, intake, layout.known_unused(config))
    for component, path in components.items():
        _take_component(path, component, intake)
    model.load_state_dict(intake.complete(folder), assign=True)
    return model.to(device).eval().requires_grad_(False)


def component_file(folder: Path, component: str) -> Path:
    """The only ``COMPONENT--STEP_checkpoint.pt`` of ``folder``, whatever its step."""
    pattern = f"{component}--*_checkpoint.pt"
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ArtifactError(
            f"{folder}: expected one {pattern}, found {len(found)}: {names}",
            hint="keep the one that belongs to the merged weights" if found else "download the checkpoint again",
        )
    return found[0]


def shard_files(folder: Path) -> dict[str, list[str]]:
    """What the index says: safetensors file -> the tensors in it."""
    path = folder / layout.INDEX
    try:
        weight_map: Mapping[str, str] = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        shards: dict[str, list[str]] = {file: [] for file in sorted(set(weight_map.values()))}
        for name, file in weight_map.items():
            shards[file].append(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path} is not a safetensors index: {type(error).__name__}: {error}") from error
    return shards


@dataclass
class _Intake:
    """Tensors on their way into the model, and a list of what is wrong with them.

    Attributes:
        expected: Parameter -> a tensor of its shape.
    """

    expected: Mapping[str, Tensor]
    device: torch.device
    dtype: torch.dtype
    accepted: dict[str, Tensor] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def fits(self, name: str, where: str, shape: tuple[int, ...]) -> bool:
        """Whether ``name`` is a parameter of that shape; if not, it goes on the list."""
        if name not in self.expected:
            self.problems.append(f"unexpected: {where}")
            return False
        wanted = tuple(self.expected[name].shape)
        if wanted != shape:
            self.refused.add(name)
            self.problems.append(f"misshapen: {where}: expected {list(wanted)}, found {list(shape)}")
        return wanted == shape

    def accept(self, name: str, where: str, tensor: Tensor) -> None:
        """Convert and keep a tensor that fits."""
        self.accepted[name] = tensor.to(self.device, self.dtype, copy=True)  # not a window into the mapped file
        if not self.accepted[name].isfinite().all():
            self.problems.append(f"not finite: {where}: NaN or infinite values in {self.dtype}")

    def complete(self, folder: Path) -> dict[str, Tensor]:
        """Every parameter, or one error that lists all problems."""
        absent = [name for name in self.expected if name not in self.accepted and name not in self.refused]
        problems = [*(f"missing: {layout.describe(name)}" for name in absent), *self.problems]
        if problems:
            listing = "\n  ".join(problems)
            raise ArtifactError(
                f"{folder}: {len(problems)} tensors are not what config.json asks for\n  {listing}",
                hint="the files may belong to another model, or be damaged: download the checkpoint again",
            )
        return self.accepted


def _take_shards(folder: Path, intake: _Intake, unused: Mapping[str, tuple[int, ...]]) -> None:
    parameters = {layout.published_name(name): name for name in layout.backbone_names(intake.expected)}
    for file, listed in shard_files(folder).items():
        with _opened(folder / file) as shard:
            stored = set(shard.keys())
            intake.problems += [f"unexpected: {key} in {file}: not in the index" for key in sorted(stored - {*listed})]
            for key in sorted(stored.intersection(listed)):
                shape, where = tuple(shard.get_slice(key).get_shape()), f"{key} in {file}"
                if unused.get(key) == shape:
                    continue
                if intake.fits(parameters.get(key, key), where, shape):
                    intake.accept(parameters[key], where, shard.get_tensor(key))


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{path} is missing, truncated or not a safetensors file: {error}",
            hint="download the checkpoint again",
        ) from error


def _take_component(path: Path, component: str, intake: _Intake) -> None:
    parameters = {
        layout.component_name(name): name for name in intake.expected if layout.component_of(name) == component
    }
    for key, tensor in _loaded(path):
        where = f"{key} in {path.name}"
        if intake.fits(parameters.get(key, key), where, tuple(tensor.shape)):
            intake.accept(parameters[key], where, tensor)


def _loaded(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        tensors = {key: tensor for key, tensor in state.items() if torch.is_tensor(tensor)}
    except Exception as error:  # the zip reader, the unpickler and torch each raise their own
        raise ArtifactError(
            f"{path} is truncated or not a plain state dict: {type(error).__name__}: {error}",
            hint="download the checkpoint again",
        ) from error
    yield from tensors.items()
