"""OpenVLA's files: the same layout without heads of their own, and nothing of the other backbone's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dyslctl_openvla_oft import OpenVLA, OpenVLAOFT, workload
from dyslctl_openvla_oft.autoregressive import OpenVLAModel
from dyslctl_openvla_oft.cache import Extended
from dyslctl_openvla_oft.inventory import take_inventory
from dyslctl_openvla_oft.prismatic import LayerContext
from dyslctl_openvla_oft.random_checkpoint import main, published_config, write_random_checkpoint
from torch import Tensor

from dyslctl.errors import ArtifactError, ConfigError, EnvironmentMismatch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Written by the command, for a test to damage."""
    main([str(tmp_path / "c"), "--size", "tiny", "--head", "tokens", "--key", "libero_goal_no_noops"])
    return tmp_path / "c"


def change(path: Path, edit: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_the_command_writes_what_load_reads(folder: Path) -> None:
    assert not list(folder.glob("*.pt"))
    backbone = OpenVLA.load(folder, options={"unnorm_key": "libero_goal"})
    config = backbone.config
    assert (config.head, config.chunk_length, config.num_images, config.use_proprio) == ("tokens", 1, 1, False)
    assert (config.normalization, config.center_crop, config.gripper) == ("bounds_q99", True, "libero")


def test_like_released_files_config_says_nothing_of_actions(folder: Path) -> None:
    assert "oft" not in json.loads((folder / "config.json").read_text())


def test_released_size_without_its_values(tmp_path: Path) -> None:
    """Of the 982 tensors the language model's head is read too."""
    config = published_config(head="tokens")
    try:
        write_random_checkpoint(tmp_path / "c", config, values="zeros")
        inventory = take_inventory(tmp_path / "c", config)
        assert sum(map(len, inventory.loaded.values())) == 939
        assert len(inventory.unused) == 43
        assert OpenVLA.load(tmp_path / "c", device="meta", dtype=torch.bfloat16).spec.num_layers == 32
    finally:
        shutil.rmtree(tmp_path / "c")


def test_statistics_of_the_base_model_are_in_its_config(folder: Path) -> None:
    path = folder / "dataset_statistics.json"
    statistics = json.loads(path.read_text())
    path.unlink()
    with pytest.raises(ArtifactError, match=r"bridge_orig\.action\.mean"):  # made up: without means
        OpenVLA.load(folder)
    change(folder / "config.json", lambda config: config.update(norm_stats=statistics))
    assert OpenVLA.load(folder).statistics.action.q01 == tuple(statistics["libero_goal_no_noops"]["action"]["q01"])


def test_actions_by_hand(folder: Path) -> None:
    def bounds(statistics: Any) -> None:
        statistics["libero_goal_no_noops"]["action"].update(
            q01=[-2.0] * 7, q99=[4.0] * 7, mask=[True] * 6 + [False], min=[-2.0] * 6 + [0.0], max=[4.0] * 6 + [1.0]
        )

    change(folder / "dataset_statistics.json", bounds)
    backbone = OpenVLA.load(folder)
    predicted = torch.tensor([[[-1.0, 1.0, 0.0, 0.5, -0.5, 0.0, 1 - 1 / 255]]])
    (chunk,) = backbone.decode_action(predicted)
    np.testing.assert_allclose(chunk.actions[0], [-2, 4, 1, 2.5, -0.5, 1, -1], atol=1e-6)  # 1 is open, executed as -1
    assert chunk.normalized[0, 6] == -1


@pytest.mark.parametrize("option", ["num_images", "use_proprio", "chunk_length", "platform"])
def test_options_of_the_other_backbone(folder: Path, option: str) -> None:
    with pytest.raises(ConfigError, match=rf"openvla options .*\n.*{option}: Extra inputs") as error:
        OpenVLA.load(folder, options={option: 2})
    assert error.value.hint == "options: unnorm_key, action_dim, center_crop, jpeg, gripper"


def test_each_backbone_names_the_other(folder: Path, write: Callable[[], Path]) -> None:
    with pytest.raises(ArtifactError, match=r"no action_head--.* discrete tokens") as error:
        OpenVLAOFT.load(folder)
    assert error.value.hint is not None and error.value.hint.endswith("is openvla")
    with pytest.raises(ArtifactError, match=r"come from a head \(action_head--7_checkpoint.pt\)") as error:
        OpenVLA.load(write())
    assert error.value.hint is not None and error.value.hint.endswith("is openvla-oft")


def test_tokens_that_are_predicted_all_at_once(write: Callable[[], Path]) -> None:
    """OpenVLA-OFT without L1 head: bidirectional, and for neither backbone."""
    folder = write()
    (folder / "action_head--7_checkpoint.pt").unlink()
    for kind in (OpenVLA, OpenVLAOFT):
        with pytest.raises(ArtifactError, match=r"all its tokens at once|discrete tokens") as error:
            kind.load(folder)
        assert error.value.hint is not None and error.value.hint.startswith("expected an OpenVLA")


def without_causal_mask(self: OpenVLAModel, hidden: Tensor, positions: Tensor, mask: Tensor | None) -> LayerContext:
    everything = torch.zeros(1, 1, hidden.shape[1], hidden.shape[1])
    return LayerContext(self.language_model.rotary_emb(hidden, positions), everything)


def forgetful(self: Extended, key: Tensor, value: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
    self.kept = (key, value)
    return key, value


def test_a_build_that_is_not_causal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenVLAModel, "context", without_causal_mask)
    with pytest.raises(EnvironmentMismatch, match=r"as OpenVLA needs:\n  attention without padding is not causal"):
        OpenVLA.load(folder)


def test_a_build_that_forgets_the_tokens_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Extended, "update", forgetful)
    with pytest.raises(EnvironmentMismatch, match="a token behind the cache is off by"):
        OpenVLA.load(folder)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_right_build_passes(folder: Path, dtype: torch.dtype, implementation: Any) -> None:
    model = OpenVLA.load(folder, dtype=dtype).model
    other = OpenVLAModel(model.config, implementation)
    other.load_state_dict(model.state_dict())
    OpenVLA(other.to(dtype), OpenVLA.load(folder).checkpoint)


def test_released_workload_by_hand() -> None:
    found = workload.published_generation()
    layer, head = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096, 32064 * 4096
    assert (found.num_layers, found.tokens, found.layer_params) == (32, 1 + 256 + 34, layer)
    assert found.head_params == 7 * head + 6 * 32 * layer
    flop = 2 * 7 * head + 6 * 32 * (2 * (layer - 2 * 4096) + 4 * 291 * 4096)
    assert found.head_gflop == pytest.approx(flop / 1e9)
