from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dyslctl_openvla_oft import layout, writer
from dyslctl_openvla_oft.checkpoint import read_checkpoint
from dyslctl_openvla_oft.config import OFTConfig
from dyslctl_openvla_oft.modeling import OFTModel
from dyslctl_openvla_oft.statistics import DatasetStatistics
from dyslctl_openvla_oft.tokenizer import PromptTokenizer
from dyslctl_openvla_oft.weights import load_model
from safetensors import safe_open
from safetensors.torch import load_file

from dyslctl.errors import ConfigError, EnvironmentMismatch

Write = Callable[[], Path]


def test_files_of_the_published_layout(write: Write) -> None:
    folder = write()
    shards = sorted(path.name for path in folder.glob("model-*"))
    count = len(shards)
    assert count > 1
    assert shards == [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    assert {path.name for path in folder.iterdir()} - set(shards) == {
        "model.safetensors.index.json",
        "config.json",
        "dataset_statistics.json",
        "preprocessor_config.json",
        "action_head--7_checkpoint.pt",
        "proprio_projector--7_checkpoint.pt",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
    }


def test_index_tells_where_each_tensor_is(write: Write, model: OFTModel) -> None:
    folder = write()
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    total = 0
    for file in set(index["weight_map"].values()):
        tensors = load_file(folder / file)
        assert set(tensors) == {name for name, place in index["weight_map"].items() if place == file}
        size = sum(tensor.nbytes for tensor in tensors.values())
        assert size <= 60_000 or len(tensors) == 1
        total += size
    assert index["metadata"]["total_size"] == total
    parameters = {layout.published_name(name) for name in layout.backbone_names(model.state_dict())}
    assert set(index["weight_map"]) == parameters | set(layout.known_unused(model.config))


def test_dtypes_are_the_published_ones(
    tmp_path: Path, model: OFTModel, tokenizer: PromptTokenizer, statistics: DatasetStatistics
) -> None:
    writer.write_checkpoint(tmp_path / "c", model, tokenizer, {"tabletop": statistics}, 150_000)
    with safe_open(tmp_path / "c" / "model-00001-of-00001.safetensors", framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118
    head = torch.load(tmp_path / "c" / "action_head--150000_checkpoint.pt", weights_only=True)
    proprio = torch.load(tmp_path / "c" / "proprio_projector--150000_checkpoint.pt", weights_only=True)
    assert {tensor.dtype for tensor in head.values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in proprio.values()} == {torch.float32}
    loaded = load_model(tmp_path / "c", model.config)
    assert torch.equal(loaded.projector.fc1.weight, model.projector.fc1.weight.bfloat16().float())


def test_settings_come_back(write: Write, config: OFTConfig, statistics: DatasetStatistics) -> None:
    checkpoint = read_checkpoint(write())
    assert checkpoint.config.llama().to_diff_dict() == config.llama().to_diff_dict()
    assert checkpoint.config.vision_config == config.vision_config
    assert checkpoint.config.oft == config.oft
    assert checkpoint.statistics == {"tabletop": statistics}


def test_replaces_an_older_checkpoint_whole(write: Write) -> None:
    folder = write()
    (folder / "action_head--3_checkpoint.pt").write_bytes(b"an older one")
    assert write() == folder
    assert [path.name for path in folder.glob("action_head--*")] == ["action_head--7_checkpoint.pt"]
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


def test_a_failure_leaves_what_was_there(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write()
    before = sorted(path.name for path in folder.iterdir())

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(EnvironmentMismatch, match="No space left"):
        write()
    assert sorted(path.name for path in folder.iterdir()) == before
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


def test_what_is_no_checkpoint_is_never_replaced(write: Write) -> None:
    folder = write()
    before = {path.name for path in folder.iterdir()} - {layout.INDEX}
    (folder / layout.INDEX).unlink()
    with pytest.raises(ConfigError, match=f"checkpoint: expected .* found no {layout.INDEX} in it") as raised:
        write()
    assert raised.value.hint == "name a new folder"
    assert {path.name for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]
