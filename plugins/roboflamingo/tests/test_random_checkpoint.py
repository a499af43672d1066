from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dyslctl_roboflamingo import RoboFlamingo
from dyslctl_roboflamingo.__main__ import main
from dyslctl_roboflamingo.config import Settings
from dyslctl_roboflamingo.random_checkpoint import random_source, write_random_checkpoint
from dyslctl_roboflamingo.writer import write_checkpoint

from dyslctl.dysl.partition import default_static_count


def test_the_command_writes_what_load_reads(tmp_path: Path) -> None:
    main(["random-checkpoint", "--size", "tiny", "--out", str(tmp_path / "c"), "--dtype", "bfloat16"])
    backbone = RoboFlamingo.load(tmp_path / "c")
    assert backbone.spec.num_layers == 7, "the eighth block is behind what the head reads"
    assert default_static_count(backbone.spec.num_layers) < backbone.spec.num_layers
    assert sum(path.stat().st_size for path in (tmp_path / "c").iterdir()) < 1e6


def test_values_depend_on_name_and_seed_alone(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "one")
    write_random_checkpoint(tmp_path / "other", seed=1)
    one, other = (RoboFlamingo.load(tmp_path / name).model.state_dict() for name in ("one", "other"))
    assert torch.equal(one["wte.weight"], random_source(0)("wte.weight", (2048, 32)))
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_a_trained_model_is_written_as_released(tmp_path: Path, folder: Path) -> None:
    """What was loaded, written and loaded again is the same, though its last block was not kept."""
    backbone = RoboFlamingo.load(folder)
    write_checkpoint(tmp_path / "copy", backbone.model, backbone.tokenizer)
    again = RoboFlamingo.load(tmp_path / "copy")
    ours, theirs = again.model.state_dict(), backbone.model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    state = torch.load(tmp_path / "copy" / "checkpoint.pth", weights_only=True)["model_state_dict"]
    assert "module.lang_encoder.old_decoder_blocks.7.attn.Wqkv.weight" in state


def test_a_folder_of_other_files_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(SystemExit) as raised:
        main(["random-checkpoint", "--size", "tiny", "--out", str(tmp_path)])
    assert raised.value.code == 2
    assert "expected no folder, an empty one or a checkpoint to replace" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# Of each cross-attention 11 tensors, there twice, and 8 or 6 of each block; resampler, embeddings, head.
SMALL = 24 * (22 + 8) + 69 + 1 + 32
LARGE = 8 * 22 + 32 * 6 + 69 + 1 + 32
RESAMPLER = 63_019_008


@pytest.mark.parametrize(
    ("size", "tensors", "layers", "width", "parameters"),
    [
        ("3b", SMALL, 23, 2048, 24 * (36_708_354 + 12 * 2048**2 + 4 * 2048) + 50_280 * 2048 + 41_194_759),
        ("9b", LARGE, 32, 4096, 8 * 139_476_994 + 32 * (12 * 4096**2 + 2 * 4096) + 50_280 * 4096 + 49_583_367),
    ],
)
def test_released_sizes_without_their_values(
    tmp_path: Path, size: str, tensors: int, layers: int, width: int, parameters: int
) -> None:
    main(["random-checkpoint", "--size", size, "--values", "zeros", "--out", str(tmp_path / "c")])
    backbone = RoboFlamingo.load(tmp_path / "c", device="meta", dtype=torch.bfloat16)
    assert (backbone.spec.num_layers, backbone.spec.hidden_size) == (layers, width)
    state = torch.load(tmp_path / "c" / "checkpoint.pth", weights_only=True)["model_state_dict"]
    assert len(state) == tensors
    own = [tensor.numel() for key, tensor in state.items() if ".gated_cross_attn_layer." not in key]
    assert sum(own) == parameters + RESAMPLER
    assert sum(path.stat().st_size for path in (tmp_path / "c").iterdir()) < 2e6
    assert Settings.read(tmp_path / "c").files.language_model == (None if size == "3b" else "language_model.pth")
