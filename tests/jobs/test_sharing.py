from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from dyslctl.artifacts import tensors
from dyslctl.errors import EnvironmentMismatch
from dyslctl.jobs import distributed
from dyslctl.jobs.dataset import Batch, Dataset, Unencoded
from dyslctl.jobs.sharing import load_dataset, save_dataset, shared
from dyslctl.types import LayerInputs, Observation


def group(tokens: int, count: int, conditioning: Any = None) -> Batch:
    hidden = torch.rand(count, tokens, 4).to(torch.bfloat16)
    positions = torch.arange(tokens).expand(count, -1)
    inputs = LayerInputs(hidden, positions, positions + 1, conditioning=conditioning)
    return Batch(inputs, torch.rand(count, 2, 3), torch.arange(count), torch.rand(count, 7))


def waiting(tokens: int, count: int) -> Unencoded:
    """Samples that are not encoded; every second one has no proprioception."""
    rng = np.random.default_rng(tokens)
    observations = [
        Observation(
            {view: rng.integers(0, 256, (4, 5, 3), np.uint8) for view in ("front", "hand")},
            f"lift it {row} times",
            rng.random(2, np.float32) if row % 2 else None,
        )
        for row in range(count)
    ]
    return Unencoded(observations, unused, tokens, torch.rand(count, 2, 3), torch.arange(count), torch.rand(count, 7))


def unused(observations: Sequence[Observation]) -> LayerInputs:
    raise NotImplementedError


def encode_here(observations: Sequence[Observation]) -> LayerInputs:
    """One number a sample: the sum of its pixels."""
    sums = torch.tensor([float(sum(image.sum() for image in seen.images.values())) for seen in observations])
    hidden = sums[:, None, None].expand(-1, 3, 2)
    positions = torch.arange(3).expand(len(sums), -1)
    return LayerInputs(hidden, positions, positions)


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
    found = load_dataset(tmp_path / "states.safetensors", encode_here)
    assert found.digest() == data.digest()
    for ours, theirs in zip(found.groups, data.groups, strict=True):
        assert ours.inputs.mask is None and same(theirs.inputs.conditioning, ours.inputs.conditioning)
        for name in ("hidden", "positions", "kinds"):
            assert same(getattr(theirs.inputs, name), getattr(ours.inputs, name)), name
        for name in ("target", "episodes", "memory"):
            assert same(getattr(theirs, name), getattr(ours, name)), name


def test_what_is_not_encoded_survives_too(tmp_path: Path) -> None:
    """Words, proprioception and pictures of every sample, in groups before and behind one that is encoded."""
    data = Dataset((waiting(3, 4), group(4, 2), waiting(5, 3)))
    save_dataset(tmp_path / "states.safetensors", data)
    found = load_dataset(tmp_path / "states.safetensors", encode_here)
    assert found.digest() == data.digest()
    for place in (0, 2):
        read, written = found.groups[place], data.groups[place]
        assert isinstance(read, Unencoded) and isinstance(written, Unencoded)
        assert (read.tokens, read.encode) == (written.tokens, encode_here)
        for theirs, meant in zip(read.observations, written.observations, strict=True):
            assert theirs.instruction == meant.instruction and list(theirs.images) == ["front", "hand"]
            assert np.array_equal(theirs.proprio, meant.proprio) if meant.proprio is not None else not theirs.proprio
            assert all(np.array_equal(theirs.images[view], meant.images[view]) for view in meant.images)
        row = read.rows(torch.tensor([2]))
        assert torch.equal(row.inputs.hidden, encode_here(written.observations[2:3]).hidden)


def test_histories_survive_the_file(tmp_path: Path) -> None:
    encoded, unencoded = group(4, 2), waiting(3, 4)
    encoded = replace(encoded, inputs=replace(encoded.inputs, history=torch.rand(2, 5)))
    unencoded = replace(unencoded, history=torch.rand(4, 5))
    save_dataset(tmp_path / "states.safetensors", Dataset((encoded, unencoded)))
    first, second = load_dataset(tmp_path / "states.safetensors", encode_here).groups
    assert isinstance(first, Batch) and same(first.inputs.history, encoded.inputs.history)
    assert isinstance(second, Unencoded) and same(second.history, unencoded.history)


def test_the_leader_collects_and_its_files_go_when_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, at_exit = tmp_path / "states.safetensors", list[Callable[[], object]]()
    data = Dataset((group(4, 2), waiting(3, 4)))
    assert shared(lambda: data, path, encode_here) is data and not path.exists(), "alone: no file"
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "wait", lambda: None)
    monkeypatch.setattr(atexit, "register", lambda function, **how: at_exit.append(partial(function, **how)))
    leader = shared(lambda: data, path, encode_here)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    follower = shared(lambda: pytest.fail("who follows collects nothing"), path, encode_here)
    assert leader is not data and leader.digest() == data.digest() == follower.digest()
    for function in at_exit:
        function()
    assert not list(tmp_path.iterdir())
    assert leader.digest() == data.digest(), "what was mapped stays readable"


def test_a_full_disk_is_the_machines_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(EnvironmentMismatch, match=r"cannot write .*states\.safetensors: .*No space left"):
        save_dataset(tmp_path / "states.safetensors", Dataset((group(4, 2),)))
    assert not list(tmp_path.iterdir())
