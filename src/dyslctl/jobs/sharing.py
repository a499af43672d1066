"""States that one process collects and all that train together read, through a file.

Every process then holds the same samples in the same order, so each knows its share of a step without asking. The file
is mapped into memory: processes on one machine share one copy of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from dyslctl.artifacts.files import atomic_path
from dyslctl.artifacts.tensors import save_tensors
from dyslctl.jobs import distributed
from dyslctl.jobs.dataset import Batch, Dataset, map_tree
from dyslctl.types import LayerInputs


def shared(collect: Callable[[], Dataset], folder: Path) -> Dataset:
    """What ``collect`` returns in the leader, in every process; alone, a process simply collects.

    Args:
        collect: Called by the leader only.
        folder: Where all processes see the same files. The file is gone when this returns.

    Raises:
        EnvironmentMismatch: If the file cannot be written.
    """
    if distributed.world_size() == 1:
        return collect()
    path = folder / "states.safetensors"
    if distributed.leads():
        save_dataset(path, collect())
    distributed.wait()
    data = load_dataset(path)
    distributed.wait()
    if distributed.leads():
        path.unlink()  # what is mapped stays readable
    return data


def save_dataset(path: Path, data: Dataset) -> None:
    """Write ``data``, atomically.

    Raises:
        EnvironmentMismatch: If it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    trees = []
    for number, group in enumerate(data.groups):
        columns = {
            "hidden": group.inputs.hidden,
            "positions": group.inputs.positions,
            "kinds": group.inputs.kinds,
            "target": group.target,
            "episodes": group.episodes,
            "memory": group.memory,
        }
        tensors |= {f"{number}.{name}": column.contiguous() for name, column in columns.items()}
        trees.append(_name_leaves(group.inputs.conditioning, f"{number}.conditioning", tensors))
    with atomic_path(path) as temporary:
        save_tensors(tensors, temporary, {"conditioning": json.dumps(trees)})


def load_dataset(path: Path) -> Dataset:
    """What :func:`save_dataset` wrote."""
    with safe_open(path, framework="pt") as file:
        trees = json.loads(file.metadata()["conditioning"])
        return Dataset(tuple(_read_group(file, number, tree) for number, tree in enumerate(trees)))


def _read_group(file: Any, number: int, tree: Any) -> Batch:
    def read(name: str) -> Tensor:
        tensor: Tensor = file.get_tensor(f"{number}.{name}")
        return tensor

    conditioning = _fill_leaves(tree, file.get_tensor)
    inputs = LayerInputs(read("hidden"), read("positions"), read("kinds"), conditioning=conditioning)
    return Batch(inputs, read("target"), read("episodes"), read("memory"))


def _name_leaves(tree: Any, prefix: str, tensors: dict[str, Tensor]) -> Any:
    """``tree`` with a name for each tensor, which ``tensors`` then holds."""

    def name(leaf: Tensor) -> str:
        key = f"{prefix}.{len(tensors)}"
        tensors[key] = leaf.contiguous()
        return key

    return map_tree([tree], lambda leaves: name(leaves[0]))


def _fill_leaves(tree: Any, read: Callable[[str], Tensor]) -> Any:
    if tree is None:
        return None
    if isinstance(tree, str):
        return read(tree)
    if isinstance(tree, Mapping):
        return {key: _fill_leaves(value, read) for key, value in tree.items()}
    return tuple(_fill_leaves(value, read) for value in tree)
