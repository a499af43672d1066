"""Training checkpoints: modules, the optimiser's moments, the step and the loss curve, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dyslctl.artifacts.files import atomic_path, reading
from dyslctl.artifacts.tensors import save_tensors
from dyslctl.errors import ArtifactError, ConfigError

Curve = list[dict[str, float]]
"""One entry a logged step: ``step``, ``loss`` and its parts."""
MEANING = {"data": "data, a digest of the states to learn from", "profile": "profile, a digest of the skip profile"}
"""Parts of an identity whose values do not speak for themselves."""


def save_checkpoint(
    path: Path,
    modules: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    step: int,
    curve: Curve,
) -> None:
    """Write everything that the next step depends on, atomically.

    Raises:
        EnvironmentMismatch: If it cannot be written; the checkpoint before is then still there.
    """
    tensors = {f"module.{name}": tensor for name, tensor in modules.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"step": str(step), "curve": json.dumps(curve), "identity": _canonical(identity)}
    with atomic_path(path) as temporary:
        save_tensors(tensors, temporary, metadata)


def load_checkpoint(
    path: Path, modules: nn.Module, optimizer: torch.optim.Optimizer, identity: Mapping[str, Any]
) -> tuple[int, Curve]:
    """Bring modules and optimiser back to a checkpoint; returns the next step and the curve so far.

    Raises:
        ArtifactError: If it is damaged.
        ConfigError: If it belongs to a training with another ``identity``.
    """
    hint = f"remove {path}, or repeat the command without --resume"
    try:
        with reading(path), safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        step, curve = int(metadata["step"]), json.loads(metadata["curve"])
        _check_identity(metadata["identity"], identity, path)
        modules.load_state_dict(_below(tensors, "module."))
        optimizer.load_state_dict({**optimizer.state_dict(), "state": _moments(_below(tensors, "optimizer."))})
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path} is truncated or damaged: {error}", hint) from error
    return step, curve


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _moments(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = tensor
    return moments


def _canonical(identity: Mapping[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)


def _check_identity(found: str, expected: Mapping[str, Any], path: Path) -> None:
    before, now = json.loads(found), json.loads(_canonical(expected))
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if changed:
        listing = "\n".join(
            f"  {MEANING.get(key, key)}: then {before.get(key)!r}, now {now.get(key)!r}" for key in changed
        )
        raise ConfigError(
            f"{path} belongs to a training with other settings:\n{listing}",
            hint="repeat the command with the settings of then, or without --resume to start over",
        )
