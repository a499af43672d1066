from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from dyslctl_openvla_oft import OpenVLAOFT
from dyslctl_openvla_oft.checkpoint import read_checkpoint
from dyslctl_openvla_oft.inventory import take_inventory
from dyslctl_openvla_oft.random_checkpoint import main, published_config, random_source, write_random_checkpoint
from safetensors.torch import load_file
from torch import Tensor

from dyslctl.dysl.partition import default_static_count

WORDS = "pick up the black bowl between the plate and the ramekin and place it on the plate"


def test_the_command_writes_what_load_reads(tmp_path: Path) -> None:
    main([str(tmp_path / "c"), "--size", "tiny", "--num-images", "1", "--no-proprio", "--key", "a", "--key", "b"])
    backbone = OpenVLAOFT.load(tmp_path / "c", options={"unnorm_key": "b"})
    assert (backbone.config.num_images, backbone.config.use_proprio) == (1, False)
    assert not list((tmp_path / "c").glob("proprio_projector*"))


def test_another_size(tmp_path: Path) -> None:
    config = published_config("tiny").model_dump(mode="json")
    config["text_config"]["num_hidden_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    main([str(tmp_path / "c"), "--config", str(tmp_path / "config.json")])
    assert OpenVLAOFT.load(tmp_path / "c").spec.num_layers == 3


def test_the_small_one_has_layers_to_skip() -> None:
    layers = published_config("tiny").llama().num_hidden_layers
    assert default_static_count(layers) < layers


def test_a_folder_of_other_files_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    thesis = tmp_path / "mine" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("x")
    assert refused(tmp_path / "mine", "--size", "tiny") == 2
    assert "mine: expected no folder, an empty one or a checkpoint to replace" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--num-images", "9"], 2, "oft.num_images: Input should be less than or equal to 4 (found 9)"),
        (["--head", "tokens", "--num-images", "2"], 2, "predicts 1 action from 1 view"),
        (["--config", "nofile.json"], 4, "no such file: nofile.json"),
        (["--seed", "-1"], 2, "--seed: expected at least 0, found -1"),
        (["--max-shard-size", "-1"], 2, "--max-shard-size: expected at least 1, found -1"),
        (["--seed", "one"], 2, "--seed: invalid"),
    ],
)
def test_wrong_options_are_named_and_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, message: str
) -> None:
    assert refused(tmp_path / "new" / "c", "--size", "tiny", *options) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_sizes_that_no_model_has_leave_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = published_config("tiny").model_dump(mode="json")
    values["text_config"]["num_attention_heads"] = 3
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    assert refused(tmp_path / "c", "--config", str(path)) == 2
    assert "config.json:" in (error := capsys.readouterr().err)
    assert "(32) is not a multiple of the number of attention heads (3)" in error.replace("\n", " ")
    assert list(tmp_path.iterdir()) == [path]


def refused(folder: Path, *options: str) -> object:
    """The exit code."""
    with pytest.raises(SystemExit) as raised:
        main([str(folder), *options])
    return raised.value.code


def test_values_depend_on_name_and_seed_alone(tmp_path: Path) -> None:
    config = published_config("tiny")
    write_random_checkpoint(tmp_path / "one", config)
    write_random_checkpoint(tmp_path / "many", config, max_shard_size=300_000)
    write_random_checkpoint(tmp_path / "other", config, seed=1)

    def tensors(folder: Path) -> dict[str, Tensor]:
        return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}

    one, many, other = (tensors(tmp_path / name) for name in ("one", "many", "other"))
    assert len(list((tmp_path / "many").glob("*.safetensors"))) == 3
    assert all(torch.equal(one[name], many[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_token_ids_are_the_published_ones(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "c", published_config("tiny"))
    tokenizer = read_checkpoint(tmp_path / "c").tokenizer
    assert (tokenizer.bos_id, tokenizer.stop_id, tokenizer.space_id, tokenizer.pad_id) == (1, 2, 29871, 32000)
    assert tokenizer.encode(WORDS)[-1] == 29871
    assert tokenizer.encode(WORDS).count(29871) == 1


def test_never_more_than_one_tensor_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tensor is made when it is written, and is gone before the next is made."""
    alive: list[int] = []
    right = random_source(0)

    def source(name: str, shape: tuple[int, ...]) -> Tensor:
        assert sum(alive) == 0, f"{name} is made while another tensor is alive"
        tensor = right(name, shape)
        alive.append(1)
        weakref.finalize(tensor, alive.pop)
        return tensor

    monkeypatch.setattr("dyslctl_openvla_oft.random_checkpoint.random_source", lambda _: source)
    write_random_checkpoint(tmp_path / "c", published_config("tiny"))
    assert OpenVLAOFT.load(tmp_path / "c")


def test_released_size_without_its_values(tmp_path: Path) -> None:
    """982 tensors and 36 of the ``.pt`` files, by name and shape; 15 GB that take no space and are never read."""
    folder = tmp_path / "c"
    write_random_checkpoint(folder, published_config(), values="zeros")
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        assert len(index["weight_map"]) == 982
        assert index["metadata"]["total_size"] == 2 * 7_541_237_184
        assert len(set(index["weight_map"].values())) == 4
        config = json.loads((folder / "config.json").read_text())
        assert not config.keys() & {"oft", "vision_config"}  # as released: nothing but LLaMA-2-7B's own sizes
        assert "hidden_size" not in config["text_config"]

        inventory = take_inventory(folder, published_config())
        assert sum(len(names) for path, names in inventory.loaded.items() if path.suffix == ".safetensors") == 938
        assert sum(len(names) for path, names in inventory.loaded.items() if path.suffix == ".pt") == 16 + 4
        assert len(inventory.unused) == 44

        backbone = OpenVLAOFT.load(folder, device="meta", dtype=torch.bfloat16)
        assert (backbone.spec.num_layers, backbone.spec.hidden_size) == (32, 4096)
    finally:
        shutil.rmtree(folder)
