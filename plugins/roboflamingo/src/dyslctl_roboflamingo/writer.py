"""Write a checkpoint in the layout of released files: one that was trained, or (``random_checkpoint``) made up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from mmap import MAP_SHARED
from pathlib import Path

import torch
from torch import Tensor

from dyslctl.artifacts.files import atomic_folder
from dyslctl.errors import ConfigError
from dyslctl_roboflamingo import layout
from dyslctl_roboflamingo.config import SETTINGS, Files, Settings
from dyslctl_roboflamingo.layout import Shape
from dyslctl_roboflamingo.model import RoboFlamingoModel
from dyslctl_roboflamingo.tokenizer import PromptTokenizer

Source = Callable[[str, Shape], Tensor]
"""Canonical name and shape of a parameter -> its values, of any dtype."""
POLICY, VISION, LANGUAGE_MODEL = "checkpoint.pth", "clip.pth", "language_model.pth"


def files_of(settings: Settings) -> Files:
    """The files that :func:`write_files` writes; the language model's own only where its final norm is read."""
    return Files(policy=POLICY, vision=VISION, language_model=LANGUAGE_MODEL if settings.final_norm else None)


def write_checkpoint(
    folder: Path, model: RoboFlamingoModel, tokenizer: PromptTokenizer, dtype: torch.dtype = torch.float32
) -> None:
    """Write ``model``, all files or none. Replaces a checkpoint that is there. Blocks that it lacks read as zeros.

    Raises:
        ConfigError: If there is something at ``folder`` that is no checkpoint.
        EnvironmentMismatch: If it cannot be written.
    """
    own = {layout.canonical(name): tensor for name, tensor in model.state_dict().items()}

    def source(name: str, shape: Shape) -> Tensor:
        return own[name] if name in own else _zeros(shape)

    write_files(folder, model.settings, source, tokenizer, dtype)


def write_files(
    folder: Path, settings: Settings, source: Source | None, tokenizer: PromptTokenizer, dtype: torch.dtype
) -> None:
    """Write a checkpoint whose values ``source`` makes, one tensor at a time. ``None``: zeros that take no space.

    Raises:
        ConfigError: If there is something at ``folder`` that is no checkpoint.
        EnvironmentMismatch: If it cannot be written.
    """
    _check_replaceable(folder)
    files = files_of(settings)
    settings = settings.model_copy(update={"files": files})
    shapes = layout.complete_shapes(settings)
    norm = {name: shapes.pop(name) for name in ["norm_f.weight"]}
    vision = {name: shapes.pop(name) for name in list(shapes) if name.startswith(layout.VISION)}
    with atomic_folder(folder) as temporary:
        _write(temporary / POLICY, shapes, settings, source, dtype, trained=True)
        _write(temporary / VISION, vision, settings, source, dtype)
        if files.language_model is not None:
            _write(temporary / files.language_model, norm, settings, source, dtype)
        tokenizer.save(temporary)
        settings.save(temporary)


def _write(
    path: Path,
    shapes: Mapping[str, Shape],
    settings: Settings,
    source: Source | None,
    dtype: torch.dtype,
    *,
    trained: bool = False,
) -> None:
    """One file; ``trained``: as RoboFlamingo's training saves an epoch, from a distributed model."""
    prefix = layout.DISTRIBUTED if trained else ""
    values = {name: _zeros(s, dtype) if source is None else torch.empty(s, dtype=dtype) for name, s in shapes.items()}
    state = {prefix + key: values[name] for name in shapes for key in layout.published(name, settings)}
    content = {"epoch": 0, "model_state_dict": state} if trained else state
    if source is None:
        torch.save(content, path)
        return
    with torch.serialization.skip_data():
        torch.save(content, path)
    del values, state, content
    _fill(path, shapes, settings, source, prefix)


def _fill(path: Path, shapes: Mapping[str, Shape], settings: Settings, source: Source, prefix: str) -> None:
    """Through the mapped file: what is in memory is one tensor, and pages that the system may drop."""
    with torch.serialization.set_default_mmap_options(MAP_SHARED):
        content = torch.load(path, weights_only=True, mmap=True)
    state = content.get("model_state_dict", content)
    for name, shape in shapes.items():
        state[prefix + layout.published(name, settings)[0]].copy_(source(name, shape).detach())


def _zeros(shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
    """One stored number for all."""
    return torch.zeros(1, dtype=dtype).expand(shape)


def _check_replaceable(folder: Path) -> None:
    """What is replaced is gone: only an older checkpoint may be."""
    if not folder.exists() or (folder / SETTINGS).is_file() or (folder.is_dir() and not any(folder.iterdir())):
        return
    raise ConfigError(
        f"{folder}: expected no folder, an empty one or a checkpoint to replace, found no {SETTINGS} in it",
        hint="name a new folder",
    )
