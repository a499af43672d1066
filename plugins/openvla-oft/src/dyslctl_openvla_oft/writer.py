"""Write a checkpoint in the published file layout."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dyslctl_openvla_oft import layout
from dyslctl_openvla_oft.config import OFTConfig
from dyslctl_openvla_oft.modeling import OFTModel
from dyslctl_openvla_oft.processing import PreprocessorConfig
from dyslctl_openvla_oft.statistics import STATISTICS, Statistics
from dyslctl_openvla_oft.tokenizer import PromptTokenizer


def write_checkpoint(
    folder: Path,
    model: OFTModel,
    tokenizer: PromptTokenizer,
    statistics: Statistics,
    step: int,
    *,
    dtype: torch.dtype = torch.bfloat16,
    max_shard_size: int = 5_000_000_000,
) -> None:
    """Write ``model`` as the released training code would, all files or none. Replaces a folder that is there.

    Args:
        folder: Where to.
        model: Its parameters are stored in ``dtype``, the proprioception projector's in float32.
        tokenizer: Its files go beside the weights.
        statistics: ``dataset_statistics.json``.
        step: Training step, part of the ``.pt`` files' names.
        dtype: Of the stored weights.
        max_shard_size: Bytes of the largest safetensors file.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write_safetensors(temporary, model, dtype, max_shard_size)
        _write_components(temporary, model, dtype, step)
        _write_json(temporary / layout.CONFIG, _config_values(model.config))
        _write_json(temporary / layout.STATISTICS_FILE, STATISTICS.dump_python(dict(statistics), exclude_none=True))
        _write_json(temporary / layout.PREPROCESSOR, PreprocessorConfig.of(model.config).model_dump())
        tokenizer.save(temporary)
        temporary.chmod(0o755)
        _replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_safetensors(folder: Path, model: OFTModel, dtype: torch.dtype, max_shard_size: int) -> None:
    state = model.state_dict()
    tensors = {layout.published_name(name): _stored(state[name], dtype) for name in layout.backbone_names(state)}
    # No inference reads these, but whoever opens the files expects them.
    tensors |= {name: torch.zeros(shape, dtype=dtype) for name, shape in layout.known_unused(model.config).items()}
    shards = list(_shards(tensors, max_shard_size))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)  # safetensors creates it readable by its owner alone
        weight_map |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    _write_json(
        folder / layout.INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    )


def _shards(tensors: dict[str, Tensor], max_shard_size: int) -> Iterator[dict[str, Tensor]]:
    """Fill one file after another, in order; a tensor larger than a file gets one to itself."""
    shard: dict[str, Tensor] = {}
    for name, tensor in sorted(tensors.items()):
        if shard and sum(other.nbytes for other in shard.values()) + tensor.nbytes > max_shard_size:
            yield shard
            shard = {}
        shard[name] = tensor
    yield shard


def _write_components(folder: Path, model: OFTModel, dtype: torch.dtype, step: int) -> None:
    for component in layout.COMPONENTS:
        stored = torch.float32 if component == "proprio_projector" else dtype
        state = {
            layout.component_name(name): _stored(tensor, stored)
            for name, tensor in model.state_dict().items()
            if layout.component_of(name) == component
        }
        torch.save(state, folder / f"{component}--{step}_checkpoint.pt")


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # A clone: a view would be saved with the storage it looks into.
    return tensor.detach().to("cpu", dtype).contiguous().clone()


def _config_values(config: OFTConfig) -> dict[str, Any]:
    values = {"architectures": ["OpenVLAForActionPrediction"], "use_fused_vision_backbone": True}
    return {**values, **config.model_dump(mode="json")}


def _replace(temporary: Path, folder: Path) -> None:
    """Put ``temporary`` in ``folder``'s place. A folder cannot be overwritten, so the old one steps aside first."""
    if not folder.exists():
        temporary.rename(folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    folder.rename(aside / folder.name)
    temporary.rename(folder)
    shutil.rmtree(aside)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
