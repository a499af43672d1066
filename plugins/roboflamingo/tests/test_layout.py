from __future__ import annotations

import pytest
import torch
from dyslctl_roboflamingo.config import Files, Settings, settings_of
from dyslctl_roboflamingo.layout import complete_shapes, parameter_of, published, split_attention

SETTINGS = [settings_of(size, Files(policy="p")) for size in ("3b", "9b", "tiny")]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("module.perceiver.layers.5.0.norm_media.weight", "perceiver.layers.5.0.norm_media.weight"),
        ("module.lang_encoder.transformer.wte.weight", "wte.weight"),
        ("module.lang_encoder.gated_cross_attn_layers.3.attn_gate", "layers.3.cross_attention.attn_gate"),
        (
            "module.lang_encoder.transformer.blocks.3.gated_cross_attn_layer.attn.to_kv.weight",
            "layers.3.cross_attention.attn.to_kv.weight",
        ),
        ("module.lang_encoder.old_decoder_blocks.7.ln_1.weight", "layers.7.block.norm_1.weight"),
        ("lang_encoder.old_decoder_blocks.7.mlp.mlp_down.weight", "layers.7.block.ffn.down_proj.weight"),
        ("lang_encoder.old_decoder_blocks.7.ffn.up_proj.weight", "layers.7.block.ffn.up_proj.weight"),
        ("lang_encoder.transformer.blocks.7.decoder_layer.attn.q_ln.weight", "layers.7.block.attn.q_ln.weight"),
        ("transformer.blocks.7.norm_2.weight", "layers.7.block.norm_2.weight"),
        ("transformer.norm_f.weight", "norm_f.weight"),
        ("lang_encoder.transformer.ln_f.weight", "norm_f.weight"),
        ("module.lm_head.rnn.weight_hh_l3", "head.rnn.weight_hh_l3"),
        ("module.lm_head.gripper.mlp.6.bias", "head.gripper.mlp.6.bias"),
        ("module.vision_encoder.visual.conv1.weight", "vision.embeddings.patch_embedding.weight"),
        ("vision_encoder.class_embedding", "vision.embeddings.class_embedding"),
        ("visual.positional_embedding", "vision.embeddings.position_embedding.weight"),
        ("visual.transformer.resblocks.2.ln_2.bias", "vision.encoder.layers.2.layer_norm2.bias"),
        ("visual.transformer.resblocks.2.attn.q_proj.bias", "vision.encoder.layers.2.self_attn.q_proj.bias"),
        ("visual.transformer.resblocks.2.mlp.c_proj.weight", "vision.encoder.layers.2.mlp.fc2.weight"),
        ("visual.ln_pre.weight", "vision.pre_layrnorm.weight"),
        ("vision_model.encoder.layers.0.mlp.fc1.weight", "vision.encoder.layers.0.mlp.fc1.weight"),
    ],
)
def test_published_names(key: str, name: str) -> None:
    assert parameter_of(key) == name


@pytest.mark.parametrize(
    "key",
    [
        "text_model.encoder.layers.0.mlp.fc1.weight",
        "logit_scale",
        "text_projection",
        "visual.proj",
        "transformer.resblocks.0.attn.in_proj_weight",
        "positional_embedding",
        "vision_model.embeddings.position_ids",
        "module.vision_encoder.token_embedding.weight",
    ],
)
def test_what_else_is_in_a_file_of_clip(key: str) -> None:
    assert parameter_of(key) is None


@pytest.mark.parametrize("settings", SETTINGS, ids=["3b", "9b", "tiny"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_parameter_is_found_under_its_published_names(settings: Settings, prefix: str) -> None:
    for name in complete_shapes(settings):
        for key in published(name, settings):
            assert parameter_of(prefix + key) == name


def test_open_clips_attention_is_split() -> None:
    whole = torch.arange(6.0)
    found = split_attention({"visual.transformer.resblocks.0.attn.in_proj_bias": whole, "logit_scale": torch.ones(())})
    assert {key.rpartition(".attn.")[2]: value.tolist() for key, value in found.items() if ".attn." in key} == {
        "q_proj.bias": [0, 1], "k_proj.bias": [2, 3], "v_proj.bias": [4, 5],
    }  # fmt: skip
    assert "logit_scale" in found
