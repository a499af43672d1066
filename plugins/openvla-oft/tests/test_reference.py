"""The whole forward pass once more: float64, published names, nothing but elementary operations."""

from __future__ import annotations

import math

import torch
from dyslctl_openvla_oft.layout import published_name
from dyslctl_openvla_oft.modeling import OFTModel
from dyslctl_openvla_oft.tokenizer import PromptTokenizer
from torch import Tensor

Weights = dict[str, Tensor]


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    product = x @ weights[f"{name}.weight"].T
    return product + weights[f"{name}.bias"] if f"{name}.bias" in weights else product


def layer_norm(weights: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    scaled = centered / (centered.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One head: ``[T, D]`` each."""
    scores = (query @ key.T / math.sqrt(query.shape[-1])).exp()
    return scores / scores.sum(-1, keepdim=True) @ value


def tower(weights: Weights, name: str, image: Tensor, heads: int, blocks: int) -> Tensor:
    """``[3, 28, 28]`` -> ``[4, width]``."""
    kernel = weights[f"{name}.patch_embed.proj.weight"].flatten(1)
    corners = [(row, column) for row in (0, 14) for column in (0, 14)]
    patches = torch.stack([image[:, r : r + 14, c : c + 14].flatten() for r, c in corners])
    x = patches @ kernel.T + weights[f"{name}.patch_embed.proj.bias"] + weights[f"{name}.pos_embed"][0]
    prefix = [weights[f"{name}.{token}"][0] for token in ("cls_token", "reg_token") if f"{name}.{token}" in weights]
    x = torch.cat([*prefix, x])
    for index in range(blocks):
        block = f"{name}.blocks.{index}"
        one = torch.ones(())
        ls1, ls2 = (weights.get(f"{block}.{ls}.scale_factor", one) for ls in ("ls1", "ls2"))
        qkv = linear(weights, f"{block}.attn.qkv", layer_norm(weights, f"{block}.norm1", x, 1e-6))
        query, key, value = (part.chunk(heads, -1) for part in qkv.chunk(3, -1))
        mixed = torch.cat([attend(q, k, v) for q, k, v in zip(query, key, value, strict=True)], -1)
        x = x + linear(weights, f"{block}.attn.proj", mixed) * ls1
        inner = gelu(linear(weights, f"{block}.mlp.fc1", layer_norm(weights, f"{block}.norm2", x, 1e-6)))
        x = x + linear(weights, f"{block}.mlp.fc2", inner) * ls2
    return x[-4:]


def rms_norm(weight: Tensor, x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def rotate(x: Tensor) -> Tensor:
    """Position ``p`` turns the pair ``(i, i + D/2)`` by ``p / 10000^(2i/D)``."""
    half = x.shape[-1] // 2
    angle = torch.arange(len(x))[:, None] / 10_000 ** (torch.arange(half) * 2 / x.shape[-1])
    left, right = x[:, :half], x[:, half:]
    return torch.cat([left * angle.cos() - right * angle.sin(), right * angle.cos() + left * angle.sin()], -1)


def llama_layer(weights: Weights, index: int, x: Tensor) -> Tensor:
    layer = f"language_model.model.layers.{index}"
    normed = rms_norm(weights[f"{layer}.input_layernorm.weight"], x)
    query, key, value = (linear(weights, f"{layer}.self_attn.{p}_proj", normed).chunk(2, -1) for p in "qkv")
    heads = [attend(rotate(q), rotate(k), v) for q, k, v in zip(query, key, value, strict=True)]
    x = x + linear(weights, f"{layer}.self_attn.o_proj", torch.cat(heads, -1))
    normed = rms_norm(weights[f"{layer}.post_attention_layernorm.weight"], x)
    gate = linear(weights, f"{layer}.mlp.gate_proj", normed)
    inner = gate * torch.sigmoid(gate) * linear(weights, f"{layer}.mlp.up_proj", normed)
    return x + linear(weights, f"{layer}.mlp.down_proj", inner)


def reference(weights: Weights, pixels: Tensor, proprio: Tensor, ids: list[int], stop: int) -> Tensor:
    """``[12, 28, 28]`` pixels, ``[5]`` proprioception, BOS + prompt ids -> ``[3, 7]``."""
    views = [
        torch.cat(
            [
                tower(weights, "vision_backbone.featurizer", view[:3], heads=2, blocks=2),
                tower(weights, "vision_backbone.fused_featurizer", view[3:], heads=3, blocks=3),
            ],
            dim=-1,
        )
        for view in (pixels[:6], pixels[6:])
    ]
    x = gelu(linear(weights, "projector.fc1", torch.cat(views)))
    vision = linear(weights, "projector.fc3", gelu(linear(weights, "projector.fc2", x)))
    state = linear(weights, "proprio_projector.fc2", gelu(linear(weights, "proprio_projector.fc1", proprio)))
    embeddings = weights["language_model.model.embed_tokens.weight"]
    bos, prompt = embeddings[ids[:1]], embeddings[ids[1:]]
    x = torch.cat([bos, vision, state[None], prompt, torch.zeros(21, 32), embeddings[stop : stop + 1]])
    for index in range(4):
        x = llama_layer(weights, index, x)
    x = rms_norm(weights["language_model.model.norm.weight"], x)
    last_prompt = 1 + 8 + 1 + len(prompt) - 1
    return action_head(weights, x[last_prompt : last_prompt + 21].reshape(3, 7 * 32))


def action_head(weights: Weights, x: Tensor) -> Tensor:
    head = "action_head.model"
    x = linear(weights, f"{head}.fc1", layer_norm(weights, f"{head}.layer_norm1", x, 1e-5)).clamp(min=0)
    for index in (0, 1):
        ffn = f"{head}.mlp_resnet_blocks.{index}.ffn"
        x = x + linear(weights, f"{ffn}.1", layer_norm(weights, f"{ffn}.0", x, 1e-5)).clamp(min=0)
    return linear(weights, f"{head}.fc2", layer_norm(weights, f"{head}.layer_norm2", x, 1e-5))


def test_whole_forward_equals_an_independent_one(model: OFTModel, tokenizer: PromptTokenizer) -> None:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(2, 12, 28, 28, generator=generator)
    proprio = torch.randn(2, 5, generator=generator)
    instructions = ["put the red cube in the purple bin", "lift it"]
    with torch.no_grad():
        actions = model(pixels, proprio, *tokenizer.encode_batch(instructions)).actions
    weights = {published_name(name): tensor.double() for name, tensor in model.state_dict().items()}
    for row, instruction in enumerate(instructions):
        ids = tokenizer.encode(instruction)
        expected = reference(weights, pixels[row].double(), proprio[row].double(), ids, tokenizer.stop_id)
        torch.testing.assert_close(actions[row].double(), expected, atol=1e-5, rtol=1e-5)
