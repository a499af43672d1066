"""Read a checkpoint's weights: every tensor is accounted for by name and shape before any is moved."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dyslctl.artifacts.tensors import is_finite
from dyslctl.errors import ArtifactError
from dyslctl_roboflamingo import layout
from dyslctl_roboflamingo.config import SETTINGS, Settings
from dyslctl_roboflamingo.layout import Shape
from dyslctl_roboflamingo.model import RoboFlamingoModel

_log = logging.getLogger(__name__)

_REFUSALS = {
    "early_exit_layer": "it is one of DeeR-VLA, whose head and cross-attention were trained for exits of its own",
    "lm_exit_modules.": "it is one of DeeR-VLA, which has a head for each exit",
    "extra_exit.": "it is one of DeeR-VLA, which has a head for all exits",
    "lm_head.embed_arm_state.": "its head reads the robot's state (trained with use_state)",
    "lm_head.gpt.": "its head is a GPT",
    "perceiver_gripper.": "the gripper's view has a resampler of its own (trained with sep_resampler)",
    "frame_embs": "it reads a history of images (trained with use_hist)",
    "diffusion_model.": "its head denoises actions (trained with use_diff)",
}
"""Sister models with the same layout, which would load in part and act wrongly."""


@dataclass(frozen=True)
class Found:
    """A tensor that becomes a parameter."""

    path: Path
    key: str
    tensor: Tensor


def load_model(
    folder: Path, settings: Settings, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> RoboFlamingoModel:
    """Read the weights that ``settings`` names into a frozen model in eval mode.

    Files are mapped: beside the model, the host holds one converted tensor. On the ``meta`` device names and shapes are
    checked and no value is read.

    Raises:
        ArtifactError: If a file is missing, damaged or of a sister model, or with every tensor that is missing,
            unexpected, of another shape, not finite in ``dtype``, or there twice with different values.
    """
    with torch.device("meta"):
        model = RoboFlamingoModel(settings)
    names = {layout.canonical(name): name for name in model.state_dict()}
    found = take_inventory(folder, settings)
    state, problems = {}, []
    for name, source in found.items():
        moved = source.tensor.to(device, dtype, copy=True)
        state[names[name]] = moved
        if not is_finite(moved):
            problems.append(f"not finite: {source.key} in {source.path.name}: NaN or infinite values in {dtype}")
    _raise(folder, problems)
    model.load_state_dict(state, assign=True)
    model.vision.number_positions()
    return model.eval().requires_grad_(False)


def take_inventory(folder: Path, settings: Settings) -> dict[str, Found]:
    """Which tensor becomes which parameter (canonical name). Where several files hold one, the later one counts.

    Raises:
        ArtifactError: As :func:`load_model`, but that no value is looked at unless a name is there twice.
    """
    with torch.device("meta"):
        wanted = {layout.canonical(n): tuple(t.shape) for n, t in RoboFlamingoModel(settings).state_dict().items()}
    unread = layout.complete_shapes(settings).keys() - wanted.keys()
    found, problems = dict[str, Found](), list[str]()
    for file in settings.files.by_precedence:
        found |= _read(folder / file, wanted, unread, problems)
    problems += [_missing(name, settings) for name in wanted if name not in found]
    for name, source in found.items():
        if (shape := tuple(source.tensor.shape)) != wanted[name]:
            where = f"{source.key} in {source.path.name}"
            problems.append(f"misshapen: {where}: expected {list(wanted[name])}, found {list(shape)}")
    _raise(folder, problems)
    return found


def _read(path: Path, wanted: Mapping[str, Shape], unread: Iterable[str], problems: list[str]) -> dict[str, Found]:
    """The parameters in one file; what cannot be explained is added to ``problems``."""
    found, unused = dict[str, Found](), list[str]()
    for key, tensor in layout.split_attention(open_tensors(path)).items():
        name = layout.parameter_of(key)
        if name is None or name in unread:
            unused.append(key)
        elif name not in wanted:
            problems.append(f"unexpected: {key} in {path.name}")
        elif name in found and not _equal(found[name].tensor, tensor):
            problems.append(f"twice, with different values: {found[name].key} and {key} in {path.name}")
        else:
            found[name] = Found(path, key, tensor)
    _log.info("%s: %d tensors unused: %s", path, len(unused), ", ".join(unused))
    return found


def open_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, bare or as ``model_state_dict`` beside an optimizer's; mapped, on the CPU.

    Raises:
        ArtifactError: If the file is missing, damaged, needs code to be read, or is of a sister model.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist", hint=f"{SETTINGS} beside it says which files there are")
    content, state = _content(path)
    _refuse(path, [*map(str, content), *map(str, state)])
    if others := [key for key, value in state.items() if not torch.is_tensor(value)]:
        raise ArtifactError(f"{path}: expected tensors, found other values under {', '.join(map(str, others))}")
    return state


def is_flamingo(path: Path) -> bool:
    """Whether ``path`` was saved by torch and names tensors as OpenFlamingo, RoboFlamingo and sister models do.

    The file is mapped and no value is read.
    """
    if not zipfile.is_zipfile(path):
        return False
    try:
        _, state = _content(path)
    except ArtifactError:
        return False
    return any(str(key).removeprefix(layout.DISTRIBUTED).startswith("perceiver.") for key in state)


def _content(path: Path) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """All that is in the file, and the state dict in it."""
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except Exception as error:  # the zip reader, the unpickler, safetensors and torch each raise their own
        raise ArtifactError(
            f"{path} is damaged, or holds more than tensors and plain values: {type(error).__name__}: {error}",
            hint="files are read without running code in them (torch.load(weights_only=True))",
        ) from error
    state = content.get("model_state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict):
        raise ArtifactError(f"{path}: expected a state dict, found {type(state).__name__}")
    return content, state


def _unpickled(path: Path) -> Any:
    # Only the zip format of torch 1.6 and later can be mapped.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _refuse(path: Path, keys: Iterable[str]) -> None:
    for key in keys:
        for prefix, reason in _REFUSALS.items():
            if key.removeprefix(layout.DISTRIBUTED).startswith(prefix):
                raise ArtifactError(
                    f"{path}: {reason} ({key}), which this plugin does not support",
                    hint="expected RoboFlamingo with both views fused behind one resampler, an LSTM and an MLP head",
                )


def _missing(name: str, settings: Settings) -> str:
    key = layout.published(name, settings)[0]
    files = settings.files
    where = files.vision or f"any file: {SETTINGS} names no files.vision" if name.startswith(layout.VISION) else ""
    if name == "norm_f.weight" and files.language_model is None:
        where = f"any file: {SETTINGS} names no files.language_model"
    return f"missing: {key} in {where or files.policy}"


def _equal(one: Tensor, other: Tensor) -> bool:
    """Published aliases share their memory, also in the file."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return one.data_ptr() == other.data_ptr() or torch.equal(one, other)


def _raise(folder: Path, problems: list[str]) -> None:
    if problems:
        raise ArtifactError(
            f"{folder}: {len(problems)} tensors are not what {SETTINGS} asks for\n  " + "\n  ".join(problems),
            hint=f"the files may belong to another model, or {SETTINGS} describes another one",
        )
