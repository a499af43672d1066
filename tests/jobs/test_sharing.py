from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from dyslctl.artifacts import tensors
from dyslctl.errors import EnvironmentMismatch
from dyslctl.jobs import distributed
from dyslctl.jobs.dataset import Batch, Dataset
from dyslctl.jobs.sharing import load_dataset, save_dataset, shared
from dyslctl.types import LayerInputs


def group(tokens: int, count: int, conditioning: Any = None) -> Batch:
    hidden = torch.rand(count, tokens, 4).to(torch.bfloat16)
    positions = torch.arange(tokens).expand(count, -1)
    inputs = LayerInputs(hidden, positions, positions + 1, conditioning=conditioning)
    return Batch(inputs, torch.rand(count, 2, 3), torch.arange(count), torch.rand(count, 7))


def same(left: Any, right: Any) -> bool:
    """Equal tensors in trees that are built alike; a list may come back as a tuple."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left is right is None


def test_a_data_set_survives_the_file(tmp_path: Path) -> None:
    tree = {"latents": [torch.rand(3, 5), None], "media": (torch.arange(3),)}
    data = Dataset((group(4, 2), group(6, 3, tree)))
    save_dataset(tmp_path / "states.safetensors", data)
    found = load_dataset(tmp_path / "states.safetensors")
    assert found.digest() == data.digest()
    for ours, theirs in zip(found.groups, data.groups, strict=True):
        assert ours.inputs.mask is None and same(theirs.inputs.conditioning, ours.inputs.conditioning)
        for name in ("hidden", "positions", "kinds"):
            assert same(getattr(theirs.inputs, name), getattr(ours.inputs, name)), name
        for name in ("target", "episodes", "memory"):
            assert same(getattr(theirs, name), getattr(ours, name)), name


def test_the_leader_collects_and_the_file_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Dataset((group(4, 2),))
    assert shared(lambda: data, tmp_path) is data, "alone: no file"
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "wait", lambda: None)
    found = shared(lambda: data, tmp_path)
    assert found is not data and not list(tmp_path.iterdir())
    assert found.digest() == data.digest(), "what was mapped stays readable"


def test_a_full_disk_is_the_machines_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(EnvironmentMismatch, match=r"cannot write .*states\.safetensors: .*No space left"):
        save_dataset(tmp_path / "states.safetensors", Dataset((group(4, 2),)))
    assert not list(tmp_path.iterdir())
