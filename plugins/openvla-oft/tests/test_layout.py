"""Names and shapes of the released 7B checkpoint, counted without allocating it."""

from __future__ import annotations

import pytest
import torch
from dyslctl_openvla_oft import layout
from dyslctl_openvla_oft.config import OFTConfig
from dyslctl_openvla_oft.modeling import OFTModel

Shapes = dict[str, tuple[int, ...]]


@pytest.fixture(scope="module")
def released() -> OFTModel:
    with torch.device("meta"):
        return OFTModel(OFTConfig(text_config={"vocab_size": 32064, "pad_token_id": 32000}))


@pytest.fixture(scope="module")
def published(released: OFTModel) -> Shapes:
    state = released.state_dict()
    used = {layout.published_name(name): tuple(state[name].shape) for name in layout.backbone_names(state)}
    return used | layout.known_unused(released.config)


def test_982_tensors(published: Shapes) -> None:
    prefixes = ("vision_backbone.featurizer.", "vision_backbone.fused_featurizer.", "projector.", "language_model.")
    assert [sum(name.startswith(prefix) for name in published) for prefix in prefixes] == [343, 342, 6, 291]
    assert len(published) == 982


def test_size_of_the_released_files(published: Shapes) -> None:
    millions = sum(torch.Size(shape).numel() for shape in published.values()) / 1e6
    assert millions == pytest.approx(7541.2, abs=0.1)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("vision_backbone.featurizer.cls_token", (1, 1, 1024)),
        ("vision_backbone.featurizer.reg_token", (1, 4, 1024)),
        ("vision_backbone.featurizer.pos_embed", (1, 256, 1024)),
        ("vision_backbone.featurizer.patch_embed.proj.weight", (1024, 3, 14, 14)),
        ("vision_backbone.featurizer.blocks.0.ls1.scale_factor", (1024,)),
        ("vision_backbone.featurizer.blocks.23.attn.qkv.weight", (3072, 1024)),
        ("vision_backbone.featurizer.norm.bias", (1024,)),
        ("vision_backbone.fused_featurizer.pos_embed", (1, 256, 1152)),
        ("vision_backbone.fused_featurizer.blocks.26.mlp.fc1.weight", (4304, 1152)),
        ("vision_backbone.fused_featurizer.attn_pool.latent", (1, 1, 1152)),
        ("vision_backbone.fused_featurizer.attn_pool.kv.weight", (2304, 1152)),
        ("projector.fc1.weight", (8704, 2176)),
        ("projector.fc3.bias", (4096,)),
        ("language_model.model.embed_tokens.weight", (32064, 4096)),
        ("language_model.model.layers.31.mlp.down_proj.weight", (4096, 11008)),
        ("language_model.model.layers.0.self_attn.q_proj.weight", (4096, 4096)),
        ("language_model.model.norm.weight", (4096,)),
    ],
)
def test_published_shapes(published: Shapes, name: str, shape: tuple[int, ...]) -> None:
    assert published[name] == shape


def test_component_files(released: OFTModel) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in released.state_dict().items()}
    head = {layout.component_name(n): s for n, s in shapes.items() if layout.component_of(n) == "action_head"}
    assert head["module.model.layer_norm1.weight"] == (28672,)
    assert head["module.model.fc1.weight"] == (4096, 28672)
    assert head["module.model.mlp_resnet_blocks.1.ffn.0.weight"] == (4096,)
    assert head["module.model.mlp_resnet_blocks.1.ffn.1.weight"] == (4096, 4096)
    assert head["module.model.fc2.bias"] == (7,)
    assert len(head) == 16
    proprio = {layout.component_name(n): s for n, s in shapes.items() if layout.component_of(n) == "proprio_projector"}
    assert proprio == {
        "module.fc1.weight": (4096, 8),
        "module.fc1.bias": (4096,),
        "module.fc2.weight": (4096, 4096),
        "module.fc2.bias": (4096,),
    }
