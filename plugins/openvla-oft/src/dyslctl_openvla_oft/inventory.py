"""Account for every tensor of a checkpoint by name and shape. Reads headers only: 15 GB are checked in a moment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dyslctl.errors import ArtifactError
from dyslctl_openvla_oft import layout
from dyslctl_openvla_oft.config import OFTConfig
from dyslctl_openvla_oft.models import new_model

Shape = tuple[int, ...]
DAMAGED_HINT = "download the checkpoint again"


@dataclass(frozen=True)
class Inventory:
    """Where each parameter is, and what else there is.

    Attributes:
        loaded: File -> key in it -> parameter of the model.
        unused: Published tensors that no inference reads, and that are not loaded.
    """

    loaded: Mapping[Path, Mapping[str, str]]
    unused: tuple[str, ...]


def take_inventory(folder: Path, config: OFTConfig) -> Inventory:
    """Compare the files of ``folder`` with the model that ``config`` describes.

    Raises:
        ArtifactError: If a file is missing, ambiguous or damaged, or with every tensor that is missing, unexpected or
            of another shape.
    """
    with torch.device("meta"):
        parameters = new_model(config).state_dict()
    count = _Count({name: tuple(tensor.shape) for name, tensor in parameters.items()})
    components = {component: component_file(folder, component) for component in layout.components_of(config)}
    _count_shards(folder, count, layout.known_unused(config))
    for component, path in components.items():
        _count_component(path, component, count)
    return count.complete(folder)


def component_file(folder: Path, component: str) -> Path:
    """The only ``COMPONENT--STEP_checkpoint.pt`` of ``folder``, whatever its step."""
    pattern = f"{component}--*checkpoint.pt"
    found = sorted(folder.glob(pattern))
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found) or "none"
    hint = "keep the one that belongs to the merged weights" if found else DAMAGED_HINT
    if component == "proprio_projector" and not found:
        hint = "if the model was trained without proprioception: --set model.options.use_proprio=false"
    raise ArtifactError(f"{folder}: expected one {pattern}, found {len(found)}: {names}", hint=hint)


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


def opened_shard(path: Path) -> AbstractContextManager[Any]:
    """A safetensors file, mapped into memory."""
    try:
        opened: AbstractContextManager[Any] = safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{path} is missing, truncated or not a safetensors file: {error}", hint=DAMAGED_HINT
        ) from error
    return opened


def opened_component(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.pt`` file, mapped into memory; on the CPU, wherever they were saved from."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return {key: tensor for key, tensor in state.items() if torch.is_tensor(tensor)}
    except Exception as error:  # the zip reader, the unpickler and torch each raise their own
        raise ArtifactError(
            f"{path} is truncated or not a plain state dict: {type(error).__name__}: {error}", hint=DAMAGED_HINT
        ) from error


@dataclass
class _Count:
    """Tensors that were found, and a list of what is wrong with them.

    Attributes:
        expected: Parameter -> its shape.
        seen: Parameters that are there, of whatever shape.
    """

    expected: Mapping[str, Shape]
    loaded: dict[Path, dict[str, str]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def add(self, path: Path, key: str, shape: Shape, parameter: str | None) -> None:
        """``key`` of ``path`` is ``parameter``; ``None``: of nothing we know."""
        if parameter is None:
            self.problems.append(f"unexpected: {key} in {path.name}")
            return
        if parameter in self.seen:
            self.problems.append(f"twice: {key} in {path.name}")
        self.seen.add(parameter)
        self.check(path, key, shape, self.expected[parameter])
        self.loaded.setdefault(path, {})[key] = parameter

    def check(self, path: Path, key: str, shape: Shape, wanted: Shape) -> None:
        """Put another shape than ``wanted`` on the list."""
        if wanted != shape:
            self.problems.append(f"misshapen: {key} in {path.name}: expected {list(wanted)}, found {list(shape)}")

    def complete(self, folder: Path) -> Inventory:
        """Every parameter, or one error that lists all problems."""
        absent = [f"missing: {layout.describe(name)}" for name in self.expected if name not in self.seen]
        raise_problems(folder, [*absent, *self.problems])
        return Inventory(self.loaded, tuple(sorted(self.unused)))


def raise_problems(folder: Path, problems: Iterable[str]) -> None:
    """One error that lists all ``problems``, if there are any."""
    if listing := list(problems):
        raise ArtifactError(
            f"{folder}: {len(listing)} tensors are not what config.json asks for\n  " + "\n  ".join(listing),
            hint="the files may belong to another model, or be damaged: download the checkpoint again",
        )


def _count_shards(folder: Path, count: _Count, unused: Mapping[str, Shape]) -> None:
    parameters = {layout.published_name(name): name for name in layout.backbone_names(count.expected)}
    for file, listed in shard_files(folder).items():
        path = folder / file
        with opened_shard(path) as shard:
            stored = set(shard.keys())
            count.problems += [f"unexpected: {key} in {file}: not in the index" for key in sorted(stored - {*listed})]
            # A parameter that is in no file is reported as missing anyway.
            lost = [key for key in sorted({*listed} - stored) if key not in parameters]
            count.problems += [f"missing: {key} in {file}: the index says it is there" for key in lost]
            for key in sorted(stored.intersection(listed)):
                shape = tuple(shard.get_slice(key).get_shape())
                if key in unused:
                    count.unused.append(key)
                    count.check(path, key, shape, unused[key])
                else:
                    count.add(path, key, shape, parameters.get(key))


def _count_component(path: Path, component: str, count: _Count) -> None:
    names = {name.partition(".")[2]: name for name in count.expected if layout.component_of(name) == component}
    for key, tensor in opened_component(path).items():
        count.add(path, key, tuple(tensor.shape), names.get(key.removeprefix(layout.DISTRIBUTED)))
