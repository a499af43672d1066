"""States that one process collects and all that train together read, through files.

Every process then holds the same samples in the same order, so each knows its share of a step without asking. What is
encoded is mapped into memory: processes on one machine share one copy of it. What is not stays in files.

    states.safetensors   labels, and what is encoded
    states.jsonl         observations that are not: instruction, proprioception, and where the images are
    states.images        their images
"""

from __future__ import annotations

import atexit
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from torch import Tensor

from dyslctl.artifacts.files import atomic_path, read_jsonl, write_jsonl
from dyslctl.artifacts.tensors import save_tensors
from dyslctl.data.image_file import ImageFile
from dyslctl.jobs import distributed
from dyslctl.jobs.dataset import Batch, Dataset, Encode, Samples, Unencoded
from dyslctl.types import LayerInputs, Observation, map_tree

ROWS, IMAGES = ".jsonl", ".images"
LABELS = ("target", "episodes", "memory")


def shared(collect: Callable[[], Dataset], path: Path, encode: Encode) -> Dataset:
    """What ``collect`` returns in the leader, in every process; alone, a process simply collects.

    Args:
        collect: Called by the leader only.
        path: A safetensors file where all processes see the same files. It is gone when the leader ends, and not
            before: over a network, what others still read must not be removed.
        encode: Of each process's own backbone.

    Raises:
        EnvironmentMismatch: If the files cannot be written.
    """
    if distributed.world_size() == 1:
        return collect()
    if distributed.leads():
        for file in (path, path.with_suffix(ROWS), path.with_suffix(IMAGES)):
            atexit.register(file.unlink, missing_ok=True)
        save_dataset(path, collect())
    distributed.wait()
    data = load_dataset(path, encode)
    distributed.wait()
    return data


def save_dataset(path: Path, data: Dataset) -> None:
    """Write ``data``, and beside ``path`` the observations that are not encoded.

    Raises:
        EnvironmentMismatch: If it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    headers = []
    for number, group in enumerate(data.groups):
        tensors |= {f"{number}.{name}": getattr(group, name).contiguous() for name in LABELS}
        if isinstance(group, Unencoded):
            headers.append(
                {"tokens": group.tokens, "history": _name_leaves(group.history, f"{number}.history", tensors)}
            )
            continue
        inputs = group.inputs
        columns = {"hidden": inputs.hidden, "positions": inputs.positions, "kinds": inputs.kinds}
        tensors |= {f"{number}.{name}": column.contiguous() for name, column in columns.items()}
        conditioning = _name_leaves(inputs.conditioning, f"{number}.conditioning", tensors)
        headers.append(
            {"conditioning": conditioning, "history": _name_leaves(inputs.history, f"{number}.history", tensors)}
        )
    waiting = [seen for group in data.groups if isinstance(group, Unencoded) for seen in group.observations]
    if waiting:
        _save_observations(path, waiting)
    with atomic_path(path) as temporary:
        save_tensors(tensors, temporary, {"groups": json.dumps(headers)})


def load_dataset(path: Path, encode: Encode) -> Dataset:
    """What :func:`save_dataset` wrote; ``encode`` is given the observations that are not encoded yet."""
    waiting = _load_observations(path)
    with safe_open(path, framework="pt") as file:
        headers = json.loads(file.metadata()["groups"])
        groups = [_read_group(file, number, header, waiting, encode) for number, header in enumerate(headers)]
    return Dataset(tuple(groups))


def _read_group(
    file: Any, number: int, header: Mapping[str, Any], waiting: Iterator[Observation], encode: Encode
) -> Samples:
    def read(name: str) -> Tensor:
        tensor: Tensor = file.get_tensor(f"{number}.{name}")
        return tensor

    target, episodes, memory = map(read, LABELS)
    history = _fill_leaves(header["history"], file.get_tensor)
    if "tokens" in header:
        seen = [next(waiting) for _ in target]
        return Unencoded(seen, encode, header["tokens"], target, episodes, memory, history)
    conditioning = _fill_leaves(header["conditioning"], file.get_tensor)
    tokens = (read("hidden"), read("positions"), read("kinds"))
    inputs = LayerInputs(*tokens, conditioning=conditioning, history=history)
    return Batch(inputs, target, episodes, memory)


def _save_observations(path: Path, observations: Sequence[Observation]) -> None:
    with atomic_path(path.with_suffix(IMAGES)) as temporary, temporary.open("wb") as opened:
        images = ImageFile(opened, temporary)
        rows = [
            {
                "instruction": seen.instruction,
                "proprio": None if seen.proprio is None else seen.proprio.tolist(),
                "images": {view: images.write(image) for view, image in seen.images.items()},
            }
            for seen in observations
        ]
    write_jsonl(path.with_suffix(ROWS), rows)


def _load_observations(path: Path) -> Iterator[Observation]:
    """One after the other; none if there is no such file."""
    rows = read_jsonl(path.with_suffix(ROWS))
    if not rows:
        return
    images = ImageFile.open(path.with_suffix(IMAGES))
    for row in rows:
        proprio = None if row["proprio"] is None else np.array(row["proprio"], np.float32)
        yield images.shown(Observation({}, row["instruction"], proprio), row["images"])


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
