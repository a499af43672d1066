"""Write a checkpoint in the published file layout: one that was trained, or (``random_checkpoint``) made up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dyslctl.artifacts.files import atomic_folder
from dyslctl.errors import ConfigError
from dyslctl_openvla_oft import layout
from dyslctl_openvla_oft.config import RELEASED, OFTConfig
from dyslctl_openvla_oft.models import new_model
from dyslctl_openvla_oft.prismatic import PrismaticModel
from dyslctl_openvla_oft.processing import PreprocessorConfig
from dyslctl_openvla_oft.shards import Source, write_shards
from dyslctl_openvla_oft.statistics import STATISTICS, Statistics
from dyslctl_openvla_oft.tokenizer import PromptTokenizer

MAX_SHARD_SIZE = 5_000_000_000
"""As the released checkpoints were split."""


def write_checkpoint(
    folder: Path,
    model: PrismaticModel,
    tokenizer: PromptTokenizer,
    statistics: Statistics,
    step: int | str,
    *,
    dtype: torch.dtype = torch.bfloat16,
    max_shard_size: int = MAX_SHARD_SIZE,
) -> None:
    """Write ``model`` as the released training code would, all files or none. Replaces a checkpoint that is there.

    Args:
        folder: Where to.
        model: Its parameters are stored in ``dtype``, the proprioception projector's in float32.
        tokenizer: Its files go beside the weights.
        statistics: ``dataset_statistics.json``.
        step: Training step, or ``latest``: part of the ``.pt`` files' names.
        dtype: Of the stored weights.
        max_shard_size: Bytes of the largest safetensors file.

    Raises:
        ConfigError: If there is something at ``folder`` that is no checkpoint.
    """
    published = {layout.published_name(name): tensor for name, tensor in model.state_dict().items()}

    def source(name: str, shape: tuple[int, ...]) -> Tensor:
        # No inference reads the rest, but whoever opens the files expects it.
        return published[name] if name in published else torch.zeros(shape)

    write_files(folder, model.config, source, tokenizer, statistics, step, dtype, max_shard_size)


def write_files(
    folder: Path,
    config: OFTConfig,
    source: Source | None,
    tokenizer: PromptTokenizer,
    statistics: Statistics,
    step: int | str,
    dtype: torch.dtype,
    max_shard_size: int,
) -> None:
    """Write a checkpoint whose values ``source`` makes up one tensor at a time; for the others see above.

    ``source`` is asked for published names, and for parameter names of what is in the ``.pt`` files. ``None``: zeros.

    Raises:
        ConfigError: If there is something at ``folder`` that is no checkpoint.
    """
    _check_replaceable(folder)
    with torch.device("meta"):
        parameters = new_model(config).state_dict()
    shapes = layout.published_shapes(config, parameters)
    with atomic_folder(folder) as new:
        _write_json(new / layout.INDEX, write_shards(new, shapes, source, dtype, max_shard_size))
        for component in layout.components_of(config):
            state = _component(component, parameters, source or _zeros, dtype)
            torch.save(state, new / f"{component}--{step}_checkpoint.pt")
        _write_json(new / layout.CONFIG, _config_values(config))
        _write_json(new / layout.STATISTICS_FILE, STATISTICS.dump_python(dict(statistics), exclude_none=True))
        _write_json(new / layout.PREPROCESSOR, PreprocessorConfig.of(config).model_dump())
        tokenizer.save(new)


def _component(
    component: str, parameters: Mapping[str, Tensor], source: Source, dtype: torch.dtype
) -> dict[str, Tensor]:
    stored = torch.float32 if component == "proprio_projector" else dtype
    state = {}
    for name in (name for name in parameters if layout.component_of(name) == component):
        values = source(name, tuple(parameters[name].shape)).detach().to("cpu", stored)
        # A clone: a view would be saved with the storage it looks into.
        state[layout.component_name(name)] = values.contiguous().clone()
    return state


def _zeros(_: str, shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(shape)


def _config_values(config: OFTConfig) -> dict[str, Any]:
    """``config.json``; like the released files it says nothing about sizes that are the released ones."""
    values = {"architectures": ["OpenVLAForActionPrediction"], "use_fused_vision_backbone": True}
    released = {"vision_config": OFTConfig().vision_config, "oft": RELEASED[config.oft.head]}
    default = {name for name, value in released.items() if getattr(config, name) == value}
    return {**values, **config.model_dump(mode="json", exclude=default)}


def _check_replaceable(folder: Path) -> None:
    """What is replaced is gone: only an older checkpoint may be."""
    if not folder.exists() or (folder / layout.INDEX).is_file() or (folder.is_dir() and not any(folder.iterdir())):
        return
    raise ConfigError(
        f"{folder}: expected no folder, an empty one or a checkpoint to replace, found no {layout.INDEX} in it",
        hint="name a new folder",
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
