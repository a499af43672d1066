from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dyslctl_openvla_oft.config import OFTConfig
from dyslctl_openvla_oft.inventory import take_inventory
from dyslctl_openvla_oft.modeling import OFTModel
from dyslctl_openvla_oft.statistics import DatasetStatistics
from dyslctl_openvla_oft.tokenizer import PromptTokenizer
from dyslctl_openvla_oft.weights import load_model
from dyslctl_openvla_oft.writer import write_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from dyslctl.errors import ArtifactError

Write = Callable[[], Path]
NORM = "language_model.model.norm.weight"
UP = "language_model.model.layers.2.mlp.up_proj.weight"


def edit_shard(folder: Path, name: str, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """Change the shard that holds ``name``."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    path = folder / str(index["weight_map"][name])
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def edit_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    """Change which tensor is said to be in which file."""
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def refusal(folder: Path, config: OFTConfig, dtype: torch.dtype = torch.float32) -> str:
    with pytest.raises(ArtifactError) as error:
        load_model(folder, config, dtype=dtype)
    assert error.value.exit_code == 4
    return str(error.value)


def test_round_trip_is_bit_exact(write: Write, model: OFTModel, config: OFTConfig) -> None:
    loaded = load_model(write(), config)
    state = loaded.state_dict()
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_the_parameters_alone(folder: Path, config: OFTConfig, dtype: torch.dtype) -> None:
    loaded = load_model(folder, config, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert loaded.language_model.rotary_emb.inv_freq.dtype == torch.float32


def test_loading_leaves_the_files_alone(write: Write, config: OFTConfig) -> None:
    folder = write()
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    load_model(folder, config).projector.fc1.weight.zero_()
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before


def test_every_problem_is_listed_at_once(write: Write, config: OFTConfig) -> None:
    folder = write()
    edit_shard(folder, NORM, lambda tensors: tensors.pop(NORM))
    edit_shard(folder, UP, lambda tensors: tensors.update({UP: torch.zeros(48, 31)}))
    edit_shard(folder, "projector.fc2.bias", lambda tensors: tensors.update({"projector.fc9.bias": torch.zeros(1)}))
    head = torch.load(folder / "action_head--7_checkpoint.pt", weights_only=True)
    del head["module.model.fc2.bias"]
    head["module.model.fc3.bias"] = torch.zeros(7)
    torch.save(head, folder / "action_head--7_checkpoint.pt")

    message = refusal(folder, config)
    assert "5 tensors" in message
    assert f"missing: {NORM}" in message
    assert f"misshapen: {UP} in model-" in message
    assert "expected [48, 32], found [48, 31]" in message
    assert "unexpected: projector.fc9.bias in model-" in message
    assert "missing: module.model.fc2.bias in action_head--*_checkpoint.pt" in message
    assert "unexpected: module.model.fc3.bias in action_head--7_checkpoint.pt" in message


def test_a_listed_tensor_the_model_does_not_know(write: Write, config: OFTConfig) -> None:
    folder, stranger = write(), "language_model.model.layers.4.mlp.up_proj.weight"
    path = edit_shard(folder, UP, lambda tensors: tensors.update({stranger: torch.zeros(48, 32)}))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"][stranger] = path.name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"unexpected: {stranger} in {path.name}" in refusal(folder, config)


def test_every_value_that_is_not_finite_is_listed(write: Write, config: OFTConfig) -> None:
    folder = write()
    edit_shard(folder, "projector.fc2.bias", lambda tensors: tensors["projector.fc2.bias"].fill_(torch.nan))
    edit_shard(folder, UP, lambda tensors: tensors[UP][0].fill_(-torch.inf))
    message = refusal(folder, config)
    assert "2 tensors" in message
    assert "not finite: projector.fc2.bias in model-" in message
    assert f"not finite: {UP} in model-" in message


def test_infinite_weights(write: Write, config: OFTConfig) -> None:
    folder = write()
    state = torch.load(folder / "proprio_projector--7_checkpoint.pt", weights_only=True)
    state["module.fc1.weight"][0, 0] = torch.inf
    torch.save(state, folder / "proprio_projector--7_checkpoint.pt")
    assert "not finite: module.fc1.weight in proprio_projector--7_checkpoint.pt" in refusal(folder, config)


def test_weights_beyond_the_range_of_half_precision(write: Write, config: OFTConfig) -> None:
    folder = write()
    edit_shard(folder, NORM, lambda tensors: tensors[NORM].fill_(1e6))
    assert load_model(folder, config, dtype=torch.bfloat16)
    assert f"not finite: {NORM}" in refusal(folder, config, dtype=torch.float16)


def test_unused_tensors_may_be_absent_or_damaged(write: Write, config: OFTConfig) -> None:
    """Nothing reads the language-model head, so a checkpoint without it is complete, and its values do not matter."""
    folder, unused = write(), "language_model.lm_head.weight"
    edit_shard(folder, unused, lambda tensors: tensors[unused].fill_(torch.nan))
    load_model(folder, config)
    edit_shard(folder, unused, lambda tensors: tensors.pop(unused))
    edit_index(folder, lambda weight_map: weight_map.pop(unused))
    load_model(folder, config)


@pytest.mark.parametrize("name", ["language_model.lm_head.weight", "projector.fc9.bias", "projector.fc2.bias"])
def test_what_the_index_lists_must_be_there(write: Write, config: OFTConfig, name: str) -> None:
    """Read or not, known or not: a file that lacks it is not the one that the index was written for."""
    folder = write()
    edit_index(folder, lambda weight_map: weight_map.setdefault(name, weight_map[UP]))
    edit_shard(folder, name, lambda tensors: tensors.pop(name, None))
    message = refusal(folder, config)
    assert "1 tensors" in message and f"missing: {name} in " in message


@pytest.mark.parametrize("size", [0, 5, 1000, -1])
def test_truncated_shard(write: Write, config: OFTConfig, size: int) -> None:
    folder = write()
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:size])
    message = refusal(folder, config)
    assert str(shard) in message
    assert "truncated" in message


def test_missing_shard(write: Write, config: OFTConfig) -> None:
    folder = write()
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    shard.unlink()
    assert str(shard) in refusal(folder, config)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": 1}'])
def test_damaged_index(write: Write, config: OFTConfig, content: str) -> None:
    folder = write()
    (folder / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json is not a safetensors index" in refusal(folder, config)


def test_several_action_heads(write: Write, config: OFTConfig) -> None:
    folder = write()
    (folder / "action_head--9_checkpoint.pt").write_bytes((folder / "action_head--7_checkpoint.pt").read_bytes())
    message = refusal(folder, config)
    assert "found 2: action_head--7_checkpoint.pt, action_head--9_checkpoint.pt" in message


def test_no_proprio_projector(write: Write, config: OFTConfig) -> None:
    folder = write()
    (folder / "proprio_projector--7_checkpoint.pt").unlink()
    assert "expected one proprio_projector--*checkpoint.pt, found 0: none" in refusal(folder, config)


@pytest.mark.parametrize("step", ["latest", "50000", "-latest"])
def test_any_step_name(write: Write, config: OFTConfig, step: str) -> None:
    folder = write()
    for part in ("action_head", "proprio_projector"):
        (folder / f"{part}--7_checkpoint.pt").rename(folder / f"{part}--{step}_checkpoint.pt")
    load_model(folder, config)


def test_files_of_one_process_have_no_module_prefix(write: Write, model: OFTModel, config: OFTConfig) -> None:
    folder = write()
    for path in folder.glob("*.pt"):
        state = torch.load(path, weights_only=True)
        assert all(key.startswith("module.") for key in state)
        torch.save({key.removeprefix("module."): tensor for key, tensor in state.items()}, path)
    loaded = load_model(folder, config)
    assert torch.equal(loaded.action_head.model.fc2.bias, model.action_head.model.fc2.bias)


def test_a_parameter_with_and_without_prefix(write: Write, config: OFTConfig) -> None:
    folder = write()
    path = folder / "action_head--7_checkpoint.pt"
    state = torch.load(path, weights_only=True)
    torch.save({**state, "model.fc2.bias": state["module.model.fc2.bias"]}, path)
    assert "twice: model.fc2.bias in action_head--7_checkpoint.pt" in refusal(folder, config)


def test_files_saved_on_a_gpu_load_without_one(
    write: Write, config: OFTConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write()
    path = folder / "action_head--7_checkpoint.pt"
    state = torch.load(path, weights_only=True)
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        torch.save(state, path)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(path, weights_only=True)
    assert load_model(folder, config).action_head.model.fc2.bias.device.type == "cpu"


def test_the_proprio_projector_is_stored_in_float32_and_runs_in_the_models_dtype(
    tmp_path: Path, model: OFTModel, tokenizer: PromptTokenizer, statistics: DatasetStatistics
) -> None:
    write_checkpoint(tmp_path / "c", model, tokenizer, {"a": statistics}, 1)
    full, half = (load_model(tmp_path / "c", model.config, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert full.proprio_projector is not None and half.proprio_projector is not None
    assert model.proprio_projector is not None
    weight = model.proprio_projector.fc1.weight
    assert torch.equal(full.proprio_projector.fc1.weight, weight)
    assert torch.equal(half.proprio_projector.fc1.weight, weight.bfloat16())


def test_unused_tensors_are_listed(folder: Path, config: OFTConfig, caplog: pytest.LogCaptureFixture) -> None:
    """Towers of 3 and 4 blocks: 14 and 12 tensors of the last ones, 2 norms each, 13 of the pooling head; lm_head."""
    unused = take_inventory(folder, config).unused
    assert len(unused) == 14 + 12 + 2 * 2 + 13 + 1
    assert "language_model.lm_head.weight" in unused
    assert "vision_backbone.fused_featurizer.attn_pool.latent" in unused
    with caplog.at_level("INFO"):
        load_model(folder, config)
    assert "44 tensors unused: language_model.lm_head.weight, " in caplog.text


def test_a_misshapen_unused_tensor(write: Write, config: OFTConfig) -> None:
    folder, unused = write(), "language_model.lm_head.weight"
    edit_shard(folder, unused, lambda tensors: tensors.update({unused: torch.zeros(1, 32)}))
    assert f"misshapen: {unused} in model-" in refusal(folder, config)


def test_names_and_shapes_are_checked_on_the_meta_device(write: Write, config: OFTConfig) -> None:
    folder = write()
    assert load_model(folder, config, device="meta").projector.fc1.weight.is_meta
    edit_shard(folder, UP, lambda tensors: tensors.update({UP: torch.zeros(48, 31)}))
    with pytest.raises(ArtifactError, match="misshapen"):
        load_model(folder, config, device="meta")


def test_truncated_component(write: Write, config: OFTConfig) -> None:
    folder = write()
    path = folder / "action_head--7_checkpoint.pt"
    path.write_bytes(path.read_bytes()[:100])
    assert f"{path} is truncated or not a plain state dict" in refusal(folder, config)


class _Bomb:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path, ("never",)


def test_a_pickle_with_code_is_refused(write: Write, config: OFTConfig) -> None:
    folder = write()
    path = folder / "action_head--7_checkpoint.pt"
    torch.save({"module.model.fc2.bias": _Bomb()}, path)
    assert f"{path} is truncated or not a plain state dict" in refusal(folder, config)
