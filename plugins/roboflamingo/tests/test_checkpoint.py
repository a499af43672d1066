"""Every tensor is accounted for: what may be in the files, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dyslctl_roboflamingo import RoboFlamingo
from dyslctl_roboflamingo.checkpoint import load_model, take_inventory
from dyslctl_roboflamingo.config import Settings
from dyslctl_roboflamingo.layout import DISTRIBUTED
from safetensors.torch import save_file
from torch import Tensor

from dyslctl.errors import ArtifactError

Write = Callable[[], Path]
State = dict[str, Tensor]


def policy(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "checkpoint.pth", weights_only=True)
    return content


def rewrite(folder: Path, change: Callable[[State], object], file: str = "checkpoint.pth") -> None:
    content = torch.load(folder / file, weights_only=True)
    change(content.get("model_state_dict", content))
    torch.save(content, folder / file)


def parameters(folder: Path) -> State:
    return dict(load_model(folder, Settings.read(folder)).state_dict())


def equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refusal(folder: Path) -> str:
    with pytest.raises(ArtifactError) as raised:
        RoboFlamingo.load(folder)
    return str(raised.value)


def renamed(folder: Path, files: dict[str, str | None]) -> None:
    settings = Settings.read(folder)
    settings.model_copy(update={"files": settings.files.model_copy(update=files)}).save(folder)


# ---- what may be


def test_the_released_layout(folder: Path) -> None:
    """``module.`` before every key, cross-attention twice, MPT's blocks under their old name, no vision."""
    content = policy(folder)
    assert content["epoch"] == 0
    keys = content["model_state_dict"].keys()
    assert all(key.startswith(DISTRIBUTED) for key in keys)
    assert f"{DISTRIBUTED}lang_encoder.old_decoder_blocks.7.attn.q_ln.weight" in keys
    twice = (f"{DISTRIBUTED}lang_encoder.{x}" for x in (
        "gated_cross_attn_layers.7.attn.to_kv.weight", "transformer.blocks.7.gated_cross_attn_layer.attn.to_kv.weight",
    ))  # fmt: skip
    assert len({content["model_state_dict"][key].data_ptr() for key in twice}) == 1, "one memory, two names"
    assert not [key for key in keys if "vision" in key or "ln_f" in key]


def test_bare_undistributed_and_with_an_optimizer(folder: Path, write: Write) -> None:
    expected, copy = parameters(folder), write()
    content = policy(copy)
    bare = {key.removeprefix(DISTRIBUTED): tensor for key, tensor in content["model_state_dict"].items()}
    torch.save(bare, copy / "checkpoint.pth")
    assert equal(parameters(copy), expected)
    moments = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    torch.save({**content, "optimizer_state_dict": moments, "lr_scheduler_state_dict": {}}, copy / "checkpoint.pth")
    assert equal(parameters(copy), expected)


def test_safetensors(folder: Path, write: Write) -> None:
    copy = write()
    for old, new in (("checkpoint.pth", "policy.safetensors"), ("clip.pth", "clip.safetensors")):
        content = torch.load(copy / old, weights_only=True)
        save_file({k: v.clone() for k, v in content.get("model_state_dict", content).items()}, copy / new)
    renamed(copy, {"policy": "policy.safetensors", "vision": "clip.safetensors"})
    assert equal(parameters(copy), parameters(folder))


def as_open_clip(state: State) -> State:
    """What ``open_clip`` calls the tensors of ``transformers``' vision model; beside them a text tower."""
    found: State = {"text_projection": torch.zeros(2, 2), "logit_scale": torch.zeros(()), "visual.proj": torch.ones(3)}
    names = {"embeddings.class_embedding": "class_embedding", "embeddings.patch_embedding.weight": "conv1.weight",
             "embeddings.position_embedding.weight": "positional_embedding"}  # fmt: skip
    for kind in ("weight", "bias"):
        names |= {f"pre_layrnorm.{kind}": f"ln_pre.{kind}", f"post_layernorm.{kind}": f"ln_post.{kind}"}
        for layer in (0, 1):
            ours, theirs = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
            names |= {f"{ours}.layer_norm1.{kind}": f"{theirs}.ln_1.{kind}",
                      f"{ours}.layer_norm2.{kind}": f"{theirs}.ln_2.{kind}",
                      f"{ours}.self_attn.out_proj.{kind}": f"{theirs}.attn.out_proj.{kind}",
                      f"{ours}.mlp.fc1.{kind}": f"{theirs}.mlp.c_fc.{kind}",
                      f"{ours}.mlp.fc2.{kind}": f"{theirs}.mlp.c_proj.{kind}"}  # fmt: skip
            parts = [state[f"vision_model.{ours}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            found[f"visual.{theirs}.attn.in_proj_{kind}"] = torch.cat(parts)
    return found | {f"visual.{new}": state[f"vision_model.{old}"].clone() for old, new in names.items()}


def test_clip_by_open_clips_names(folder: Path, write: Write) -> None:
    copy = write()
    torch.save(as_open_clip(torch.load(copy / "clip.pth", weights_only=True)), copy / "clip.pth")
    assert equal(parameters(copy), parameters(folder))


def test_clip_within_the_policys_own_file(folder: Path, write: Write) -> None:
    """As a training with an unfrozen vision transformer leaves it."""
    copy = write()
    clip = as_open_clip(torch.load(copy / "clip.pth", weights_only=True))
    rewrite(copy, lambda state: state.update({f"module.vision_encoder.{key}": t for key, t in clip.items()}))
    (copy / "clip.pth").unlink()
    renamed(copy, {"vision": None})
    assert equal(parameters(copy), parameters(folder))


def test_what_the_policy_lacks_comes_from_openflamingo_and_the_language_model(folder: Path, write: Write) -> None:
    copy = write()
    state = policy(copy)["model_state_dict"]
    bare = {key.removeprefix(DISTRIBUTED): tensor.clone() for key, tensor in state.items()}
    flamingo = {k: t for k, t in bare.items() if k.startswith("perceiver.") or ".gated_cross_attn_layer." in k}
    language = {
        key.removeprefix("lang_encoder.").replace("old_decoder_blocks", "transformer.blocks"): tensor
        for key, tensor in bare.items()
        if "old_decoder_blocks" in key
    }
    wte = "lang_encoder.transformer.wte.weight"
    # OpenFlamingo's embeddings and resampler were trained further; the language model has other rows.
    torch.save({**flamingo, "perceiver.latents": torch.zeros(6, 24), wte: bare[wte] + 1}, copy / "openflamingo.pt")
    torch.save({**language, "transformer.wte.weight": torch.zeros(9, 32), "transformer.ln_f.weight": torch.ones(32)},
               copy / "mpt.bin")  # fmt: skip
    own = {k: t for k, t in bare.items() if k.startswith("lm_head.") or k in (wte, "perceiver.latents")}
    torch.save(own, copy / "checkpoint.pth")
    renamed(copy, {"openflamingo": "openflamingo.pt", "language_model": "mpt.bin"})
    assert equal(parameters(copy), parameters(folder))


def test_the_final_norm_of_mpt_7b(write: Write) -> None:
    copy = write()
    settings = Settings.read(copy).model_copy(update={"feature_tap": "after_last_block", "final_norm": True})
    settings.save(copy)
    assert "missing: transformer.ln_f.weight in any file: roboflamingo.yaml names no files.lang" in refusal(copy)
    torch.save({"transformer.ln_f.weight": torch.full((32,), 2.0)}, copy / "mpt.bin")
    renamed(copy, {"language_model": "mpt.bin"})
    assert parameters(copy)["norm_f.weight"].tolist() == [2.0] * 32
    assert RoboFlamingo.load(copy).spec.num_layers == 8


def test_conversion(folder: Path) -> None:
    model = load_model(folder, Settings.read(folder), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


def test_nothing_is_written_to_the_checkpoint(write: Write) -> None:
    copy = write()
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    model = load_model(copy, Settings.read(copy))
    for parameter in model.parameters():
        parameter.data.zero_()
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


# ---- what is refused


def test_all_problems_are_listed_at_once(write: Write) -> None:
    copy = write()
    blocks, cross = "module.lang_encoder.old_decoder_blocks", "module.lang_encoder.gated_cross_attn_layers"

    def damage(state: State) -> None:
        del state[f"{blocks}.0.attn.Wqkv.weight"]
        del state["module.lm_head.rnn.bias_ih_l0"]
        state[f"{blocks}.1.ln_1.weight"] = torch.ones(7)
        state["module.lang_encoder.transformer.wpe.weight"] = torch.ones(7)
        state[f"{cross}.2.attn_gate"] = state[f"{cross}.2.attn_gate"] + 1

    rewrite(copy, damage)
    rewrite(copy, lambda state: state.pop("vision_model.pre_layrnorm.bias"), "clip.pth")
    text = refusal(copy)
    assert "6 tensors are not what roboflamingo.yaml asks for" in text
    for line in (
        "missing: lang_encoder.old_decoder_blocks.0.attn.Wqkv.weight in checkpoint.pth",
        "missing: lm_head.rnn.bias_ih_l0 in checkpoint.pth",
        "missing: vision_model.pre_layrnorm.bias in clip.pth",
        f"misshapen: {blocks}.1.ln_1.weight in checkpoint.pth: expected [32], found [7]",
        "unexpected: module.lang_encoder.transformer.wpe.weight in checkpoint.pth",
        f"twice, with different values: {cross}.2.attn_gate and module.lang_encoder.transformer.blocks.2",
    ):
        assert line in text, line


def test_a_forgotten_clip(write: Write) -> None:
    copy = write()
    renamed(copy, {"vision": None})
    lost = "missing: vision_model.embeddings.class_embedding in any file: roboflamingo.yaml names no files.vision"
    assert lost in refusal(copy)


def test_numbers_that_are_none(write: Write) -> None:
    copy = write()
    rewrite(copy, lambda state: state["module.perceiver.norm.bias"].fill_(float("nan")))
    rewrite(copy, lambda state: state["module.lm_head.rnn.weight_hh_l1"].fill_(float("inf")))
    text = refusal(copy)
    assert "not finite: module.perceiver.norm.bias in checkpoint.pth" in text
    assert "not finite: module.lm_head.rnn.weight_hh_l1 in checkpoint.pth" in text


def test_the_last_block_may_be_absent_only_if_it_is_not_read(folder: Path, write: Write) -> None:
    copy = write()
    rewrite(copy, lambda state: [state.pop(key) for key in list(state) if "blocks.7." in key or "layers.7." in key])
    assert equal(parameters(copy), parameters(folder))
    Settings.read(copy).model_copy(update={"feature_tap": "after_last_block"}).save(copy)
    assert "missing: lang_encoder.old_decoder_blocks.7.attn.Wqkv.weight" in refusal(copy)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("module.lm_head.embed_arm_state.0.weight", "reads the robot's state"),
        ("module.lm_exit_modules.0.rnn.bias", "one of DeeR-VLA"),
        ("module.perceiver_gripper.latents", "a resampler of its own"),
    ],
)
def test_sister_models_are_named(write: Write, key: str, reason: str) -> None:
    copy = write()
    rewrite(copy, lambda state: state.update({key: torch.zeros(1)}))
    assert reason in refusal(copy)


def test_a_deer_checkpoint_is_known_by_its_settings(write: Write) -> None:
    copy = write()
    torch.save({**policy(copy), "early_exit_layer": 11}, copy / "checkpoint.pth")
    assert "one of DeeR-VLA" in refusal(copy)


class Malicious:
    def __reduce__(self) -> Any:
        return print, ("executed",)


@pytest.mark.parametrize("content", [Malicious(), {"model_state_dict": {"a": Malicious()}}])
def test_code_is_not_run(write: Write, content: Any, capsys: pytest.CaptureFixture[str]) -> None:
    copy = write()
    torch.save(content, copy / "checkpoint.pth")
    assert "holds more than tensors" in refusal(copy)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken"])
def test_damaged_files(write: Write, content: bytes) -> None:
    copy = write()
    (copy / "checkpoint.pth").write_bytes(content)
    assert "checkpoint.pth is damaged" in refusal(copy)


def test_a_file_that_is_not_there(write: Write) -> None:
    copy = write()
    (copy / "clip.pth").unlink()
    assert "clip.pth does not exist" in refusal(copy)


def test_other_values_beside_tensors(write: Write) -> None:
    copy = write()
    torch.save({**policy(copy)["model_state_dict"], "note": "hello"}, copy / "checkpoint.pth")
    assert "expected tensors, found other values under note" in refusal(copy)


def test_more_tokens_than_embeddings(write: Write) -> None:
    copy = write()
    settings = Settings.read(copy)
    small = settings.language_model.model_copy(update={"vocabulary": 20})
    settings.model_copy(update={"language_model": small}).save(copy)
    assert "20 embeddings\n  hint: put the tokenizer.json there" in refusal(copy)


def test_an_inventory_reads_no_values(folder: Path) -> None:
    found = take_inventory(folder, Settings.read(folder))
    assert found["wte.weight"].key == "module.lang_encoder.transformer.wte.weight"
    model = load_model(folder, Settings.read(folder), device="meta")
    assert model.wte.weight.is_meta
