"""Write safetensors shards and their index tensor by tensor: the memory needed is that of one tensor.

A file is the length of its header (8 bytes, little endian), the header (JSON: dtype, shape and place of each tensor),
and the tensors' bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

Shape = tuple[int, ...]
Source = Callable[[str, Shape], Tensor]
"""Name and shape of a published tensor -> its values, of any dtype."""

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_shards(
    folder: Path, shapes: Mapping[str, Shape], source: Source | None, dtype: torch.dtype, max_shard_size: int
) -> dict[str, object]:
    """Write ``model-*-of-*.safetensors``.

    Args:
        folder: Where to.
        shapes: Published tensor -> its shape.
        source: Where the values come from. ``None``: the files only claim to have some, and read as zeros; where the
            file system knows holes they take no space.
        dtype: Of the stored values.
        max_shard_size: Bytes of tensors in a file; a larger tensor gets a file to itself.

    Returns:
        The content of ``model.safetensors.index.json``.
    """
    shards = list(_split(shapes, dtype, max_shard_size))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(folder / file, shard, source, dtype)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}


def _split(shapes: Mapping[str, Shape], dtype: torch.dtype, max_shard_size: int) -> Iterator[dict[str, Shape]]:
    """Fill one file after another, in order of names."""
    shard: dict[str, Shape] = {}
    filled = 0
    for name, shape in sorted(shapes.items()):
        size = math.prod(shape) * dtype.itemsize
        if shard and filled + size > max_shard_size:
            yield shard
            shard, filled = {}, 0
        shard[name] = shape
        filled += size
    yield shard


def _write_shard(path: Path, shapes: Mapping[str, Shape], source: Source | None, dtype: torch.dtype) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        if source is None:
            file.truncate(8 + len(text) + end)
            return
        for name, shape in shapes.items():
            values = source(name, shape).detach().to("cpu", dtype).contiguous()
            file.write(values.view(torch.uint8).numpy().data)
