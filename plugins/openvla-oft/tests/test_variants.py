"""Sister models are refused by name: each would load, and act wrongly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dyslctl_openvla_oft import OpenVLAOFT
from dyslctl_openvla_oft.variants import refuse_variants

from dyslctl.errors import ArtifactError

Write = Callable[[], Path]


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("vision_backbone--50000_checkpoint.pt", r"FiLM .* \(vision_backbone--50000_checkpoint.pt\), which .* support"),
        ("noisy_action_projector--latest_checkpoint.pt", "a diffusion head .* which openvla-oft does not support"),
    ],
)
def test_film_and_diffusion(write: Write, added: str, message: str) -> None:
    folder = write()
    (folder / added).touch()
    with pytest.raises(ArtifactError, match=message):
        OpenVLAOFT.load(folder)


def test_discrete_tokens(write: Write) -> None:
    folder = write()
    (folder / "action_head--7_checkpoint.pt").unlink()
    with pytest.raises(ArtifactError, match=r"no action_head--.* discrete tokens"):
        OpenVLAOFT.load(folder)


def test_unmerged_lora_weights(write: Write) -> None:
    folder = write()
    (folder / "model.safetensors.index.json").unlink()
    (folder / "lora_adapter").mkdir()
    with pytest.raises(ArtifactError, match=r"no model.safetensors.index.json, so its LoRA weights are not merged"):
        OpenVLAOFT.load(folder)


def test_an_adapter_beside_the_merged_weights_is_not_read(write: Write, backbone: OpenVLAOFT) -> None:
    """Merging it once more gives a model that never succeeds."""
    folder = write()
    before = OpenVLAOFT.load(folder).spec.fingerprint
    (folder / "lora_adapter").mkdir()
    (folder / "lora_adapter" / "adapter_model.safetensors").write_bytes(b"damaged")
    assert OpenVLAOFT.load(folder).spec.fingerprint == before


def test_files_in_folders_do_not_count() -> None:
    files = ["model.safetensors.index.json", "action_head--1_checkpoint.pt"]
    refuse_variants("here", [*files, "old/vision_backbone--1_checkpoint.pt"])


def test_the_checkpoints_own_code_is_never_run(write: Write, tmp_path: Path) -> None:
    """Released repositories bring ``modeling_prismatic.py`` and an ``auto_map`` that asks to import it."""
    folder = write()
    for name in ("modeling_prismatic", "configuration_prismatic", "processing_prismatic"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = (folder / "config.json").read_text()
    auto_map = '"auto_map": {"AutoConfig": "configuration_prismatic.OpenVLAConfig"},'
    (folder / "config.json").write_text(config.replace("{", "{" + auto_map, 1))
    OpenVLAOFT.load(folder)
    assert not (tmp_path / "ran").exists()
