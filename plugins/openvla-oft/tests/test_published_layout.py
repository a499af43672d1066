"""A random checkpoint in the published layout, and one whole control step written again from the files up.

``Reference`` uses numpy, Pillow and plain torch, and nothing of the plugin. It can spring a trap: a mistake that is
known to have been made with these checkpoints. Each of them must change the actions, or this comparison would not
notice it.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dyslctl_openvla_oft import OpenVLAOFT
from dyslctl_openvla_oft.config import OFTConfig
from dyslctl_openvla_oft.random_checkpoint import published_config, write_random_checkpoint
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from dyslctl.engine import FullSchedule, forward
from dyslctl.types import LayerState, Observation

INSTRUCTION = "Put the red cube in the purple bin"
LAYERS = 4
FORWARD_TRAPS = [
    "causal mask",
    "rotary frequencies in bfloat16",
    "head reads the placeholders themselves",
    "last block of the towers used",
    "final norm of the towers used",
    "SigLIP before DINOv2",
    "position embedding on the registers too",
    "no layer scale",
    "stop token zeroed",
    "placeholders not zeroed",
    "rms_norm_eps of Meta's LLaMA",
    "proprioception before the images",
]
PROCESSING_TRAPS = [
    "views swapped",
    "upside down",
    "no JPEG",
    "no crop",
    "ImageNet statistics not rounded",
    "prompt not lowered",
    "prompt without the lone space",
    "proprioception not normalised",
    "proprioception not clipped",
    "statistics of the base model",
    "actions clipped",
    "gripper un-normalised",
    "gripper sign kept",
]
TRAPS = [*FORWARD_TRAPS, *PROCESSING_TRAPS]


@dataclass
class Reference:
    """``actions(observation)`` as the released evaluation computes them."""

    folder: Path
    use_proprio: bool = True
    trap: str = ""
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        self.weights: dict[str, Tensor] = {}
        for path in self.folder.glob("*.safetensors"):
            self.weights |= load_file(path)
        for path in self.folder.glob("*.pt"):
            part = path.name.partition("--")[0]
            state = torch.load(path, weights_only=True)
            self.weights |= {f"{part}.{key.removeprefix('module.')}": tensor for key, tensor in state.items()}
        self.weights = {key: tensor.to(self.dtype) for key, tensor in self.weights.items()}
        self.statistics = next(iter(json.loads((self.folder / "dataset_statistics.json").read_text()).values()))

    def sprung(self, trap: str) -> bool:
        assert trap in TRAPS
        return self.trap == trap

    def actions(self, observation: Observation) -> np.ndarray:
        """``[8, 7]``, executed."""
        images = list(observation.images.values())
        views = images[::-1] if self.sprung("views swapped") else images
        pixels = torch.cat([self.pixels(view) for view in views])[None].to(self.dtype)
        hidden = self.language_model(self.embed(pixels, self.prompt(observation.instruction), observation.proprio))
        first = hidden.shape[1] - 56 - 2 + self.sprung("head reads the placeholders themselves")
        return self.execute(self.head(hidden[:, first : first + 56].reshape(1, 8, -1))[0].float().numpy())

    # ---- before the model

    def pixels(self, image: np.ndarray) -> Tensor:
        if self.sprung("upside down"):
            image = image[::-1, ::-1]
        if not self.sprung("no JPEG"):
            compressed = io.BytesIO()
            Image.fromarray(image).save(compressed, "JPEG", quality=95)
            image = np.asarray(Image.open(compressed))
        small = np.asarray(Image.fromarray(image).resize((28, 28), Image.Resampling.LANCZOS))
        if not self.sprung("no crop"):
            small = crop(small)
        unit = torch.tensor(small).permute(2, 0, 1).float() / 255
        dino = (0.484375, 0.455078125, 0.40625), (0.228515625, 0.2236328125, 0.224609375)
        if self.sprung("ImageNet statistics not rounded"):
            dino = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        mean, std = (torch.tensor(row)[:, None, None] for row in dino)
        towers = [(unit - mean) / std, (unit - 0.5) / 0.5]
        return torch.cat(towers[::-1] if self.sprung("SigLIP before DINOv2") else towers)

    def prompt(self, instruction: str) -> list[int]:
        task = instruction if self.sprung("prompt not lowered") else instruction.lower()
        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        ids = tokenizer.encode(f"In: What action should the robot take to {task}?\nOut:", add_special_tokens=False).ids
        return [1, *ids] if self.sprung("prompt without the lone space") else [1, *ids, 29871]

    def state(self, proprio: np.ndarray) -> Tensor:
        if self.sprung("proprioception not normalised"):
            return torch.tensor(proprio, dtype=self.dtype)
        low, high = (np.array(self.statistics["proprio"][bound]) for bound in ("q01", "q99"))
        scaled = 2 * (proprio - low) / (high - low + 1e-8) - 1
        clipped = scaled if self.sprung("proprioception not clipped") else np.clip(scaled, -1, 1)
        return torch.tensor(clipped.astype(np.float32)).to(self.dtype)

    # ---- the model

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def layer_norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], eps)

    def tower(self, name: str, images: Tensor, depth: int, heads: int) -> Tensor:
        """``[V, 3, 28, 28]`` -> ``[V, 4, width]``."""
        w, prefix = self.weights, 0
        x = F.conv2d(images, w[f"{name}.patch_embed.proj.weight"], w[f"{name}.patch_embed.proj.bias"], stride=14)
        x = x.flatten(2).transpose(1, 2) + w[f"{name}.pos_embed"]
        if f"{name}.cls_token" in w:
            extra = torch.cat([w[f"{name}.cls_token"], w[f"{name}.reg_token"]], 1)
            prefix = extra.shape[1]
            if self.sprung("position embedding on the registers too"):
                extra = extra + w[f"{name}.pos_embed"][:, :1]
            x = torch.cat([extra.expand(len(x), -1, -1), x], 1)
        for index in range(depth if self.sprung("last block of the towers used") else depth - 1):
            x = self.block(f"{name}.blocks.{index}", x, heads)
        if self.sprung("final norm of the towers used"):
            x = self.layer_norm(f"{name}.norm", x, 1e-6)
        return x[:, prefix:]

    def block(self, name: str, x: Tensor, heads: int) -> Tensor:
        def scaled(branch: Tensor, scale: str) -> Tensor:
            key = f"{name}.{scale}.scale_factor"
            return branch * self.weights[key] if key in self.weights and not self.sprung("no layer scale") else branch

        qkv = self.linear(f"{name}.attn.qkv", self.layer_norm(f"{name}.norm1", x, 1e-6))
        q, k, v = qkv.view(*qkv.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + scaled(self.linear(f"{name}.attn.proj", mixed), "ls1")
        inner = F.gelu(self.linear(f"{name}.mlp.fc1", self.layer_norm(f"{name}.norm2", x, 1e-6)))
        return x + scaled(self.linear(f"{name}.mlp.fc2", inner), "ls2")

    def embed(self, pixels: Tensor, ids: list[int], proprio: np.ndarray | None) -> Tensor:
        """``[1, 6 V, 28, 28]`` -> ``[1, L, 32]``: BOS, images, proprioception, prompt, 56 zeros, stop."""
        images = pixels.view(-1, 6, 28, 28)
        dino = self.tower("vision_backbone.featurizer", images[:, :3], 3, 2)
        siglip = self.tower("vision_backbone.fused_featurizer", images[:, 3:], 4, 3)
        x = torch.cat([dino, siglip], -1).flatten(0, 1)[None]
        x = F.gelu(self.linear("projector.fc2", F.gelu(self.linear("projector.fc1", x))))
        vision = self.linear("projector.fc3", x)
        state = vision[:, :0]
        if proprio is not None and self.use_proprio:
            inner = F.gelu(self.linear("proprio_projector.fc1", self.state(proprio)[None]))
            state = self.linear("proprio_projector.fc2", inner)[:, None]
        between = [state, vision] if self.sprung("proprioception before the images") else [vision, state]
        table = self.weights["language_model.model.embed_tokens.weight"]
        words, zeros, stop = table[ids][None], torch.zeros(1, 56, 32, dtype=self.dtype), table[2].expand(1, 1, -1)
        zeros = table[1].expand(1, 56, -1) if self.sprung("placeholders not zeroed") else zeros
        stop = torch.zeros_like(stop) if self.sprung("stop token zeroed") else stop
        return torch.cat([words[:, :1], *between, words[:, 1:], zeros, stop], 1)

    def rms_norm(self, name: str, x: Tensor) -> Tensor:
        eps = 1e-5 if self.sprung("rms_norm_eps of Meta's LLaMA") else 1e-6
        scaled = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)
        return self.weights[f"{name}.weight"] * scaled.to(x.dtype)

    def language_model(self, x: Tensor) -> Tensor:
        frequencies = 1.0 / (10_000.0 ** (torch.arange(0, 16, 2).float() / 16))
        if self.sprung("rotary frequencies in bfloat16"):
            frequencies = frequencies.bfloat16().float()
        angles = torch.arange(x.shape[1]).float()[:, None] * frequencies
        cos, sin = (torch.cat([table, table], -1).to(x.dtype) for table in (angles.cos(), angles.sin()))
        for index in range(LAYERS):
            x = self.decoder_layer(f"language_model.model.layers.{index}", x, cos, sin)
        return self.rms_norm("language_model.model.norm", x)

    def decoder_layer(self, name: str, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        normed = self.rms_norm(f"{name}.input_layernorm", x)
        q, k, v = (self.linear(f"{name}.self_attn.{part}_proj", normed) for part in "qkv")
        q, k, v = (part.view(1, -1, 2, 16).transpose(1, 2) for part in (q, k, v))
        q, k = (part * cos + torch.cat([-part[..., 8:], part[..., :8]], -1) * sin for part in (q, k))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.sprung("causal mask"))
        x = x + self.linear(f"{name}.self_attn.o_proj", mixed.transpose(1, 2).flatten(2))
        normed = self.rms_norm(f"{name}.post_attention_layernorm", x)
        gate, up = self.linear(f"{name}.mlp.gate_proj", normed), self.linear(f"{name}.mlp.up_proj", normed)
        return x + self.linear(f"{name}.mlp.down_proj", F.silu(gate) * up)

    def head(self, x: Tensor) -> Tensor:
        name = "action_head.model"
        x = F.relu(self.linear(f"{name}.fc1", self.layer_norm(f"{name}.layer_norm1", x, 1e-5)))
        for index in (0, 1):
            ffn = f"{name}.mlp_resnet_blocks.{index}.ffn"
            x = x + F.relu(self.linear(f"{ffn}.1", self.layer_norm(f"{ffn}.0", x, 1e-5)))
        return self.linear(f"{name}.fc2", self.layer_norm(f"{name}.layer_norm2", x, 1e-5))

    # ---- after the model

    def execute(self, predicted: np.ndarray) -> np.ndarray:
        statistics = self.statistics["action"]
        if self.sprung("statistics of the base model"):
            base = json.loads((self.folder / "config.json").read_text())["norm_stats"]["bridge_orig"]["action"]
            statistics = {**statistics, **base}
        low, high = np.array(statistics["q01"]), np.array(statistics["q99"])
        values = np.clip(predicted, -1, 1) if self.sprung("actions clipped") else predicted
        mask = np.ones(7, bool) if self.sprung("gripper un-normalised") else np.array([True] * 6 + [False])
        actions = np.where(mask, 0.5 * (values + 1) * (high - low + 1e-8) + low, values).astype(np.float32)
        actions[:, 6] = np.sign(2 * actions[:, 6] - 1) * (1 if self.sprung("gripper sign kept") else -1)
        return actions


def crop(image: np.ndarray) -> np.ndarray:
    """``tf.image.crop_and_resize`` of the central 90 % of ``[28, 28, 3]``, bilinear, back to uint8."""
    at = (1 - math.sqrt(0.9)) / 2 * 27 + np.arange(28) * math.sqrt(0.9)
    low, weight = np.floor(at).astype(int), at - np.floor(at)
    unit = image / 255
    rows = unit[low] * (1 - weight)[:, None, None] + unit[low + 1] * weight[:, None, None]
    both = rows[:, low] * (1 - weight)[None, :, None] + rows[:, low + 1] * weight[None, :, None]
    cropped: np.ndarray = np.floor(both * 255.5).astype(np.uint8)
    return cropped


def small_config(**action: Any) -> OFTConfig:
    values = published_config("tiny", **action).model_dump()
    values["text_config"]["num_hidden_layers"] = LAYERS
    return OFTConfig.model_validate(values)


@pytest.fixture(scope="module", params=[(1, False), (2, True), (3, True), (4, False)], ids=str)
def variant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, bool]:
    """A checkpoint, its number of images, and whether it reads proprioception."""
    num_images, use_proprio = request.param
    config = small_config(num_images=num_images, use_proprio=use_proprio)
    folder = tmp_path_factory.mktemp("published") / "checkpoint"
    write_random_checkpoint(folder, config, max_shard_size=400_000)
    return folder, num_images, use_proprio


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images and proprioception."""
    folder = tmp_path_factory.mktemp("published") / "checkpoint"
    write_random_checkpoint(folder, small_config())
    return folder


def observe(num_images: int = 2, seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (num_images, 8, 8, 3), dtype=np.uint8)
    views = {f"view{n}": np.asarray(Image.fromarray(image).resize((64, 64))) for n, image in enumerate(coarse)}
    return Observation(views, INSTRUCTION, 2 * rng.normal(size=8).astype(np.float32))


def actions_of(backbone: OpenVLAOFT, observation: Observation) -> np.ndarray:
    state = LayerState.of(backbone.encode([observation]))
    forward(backbone, state, FullSchedule())
    return backbone.decode_action(backbone.predict(state))[0].actions


def test_actions_equal_the_reference_exactly(variant: tuple[Path, int, bool]) -> None:
    folder, num_images, use_proprio = variant
    backbone, reference = OpenVLAOFT.load(folder), Reference(folder, use_proprio)
    for seed in range(3):
        observation = observe(num_images, seed)
        np.testing.assert_array_equal(actions_of(backbone, observation), reference.actions(observation))


@pytest.mark.parametrize("exact", [torch.bfloat16, torch.float32])
def test_actions_in_bfloat16_are_within_one_percent(variant: tuple[Path, int, bool], exact: torch.dtype) -> None:
    folder, num_images, use_proprio = variant
    backbone, reference = OpenVLAOFT.load(folder, dtype=torch.bfloat16), Reference(folder, use_proprio, dtype=exact)
    for seed in range(2):
        observation = observe(num_images, seed)
        found, expected = actions_of(backbone, observation), reference.actions(observation)
        assert np.linalg.norm(found - expected) <= 1e-2 * np.linalg.norm(expected)


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_changes_the_actions(checkpoint: Path, trap: str) -> None:
    """So the comparisons above fail if the plugin falls into it."""
    right, wrong = Reference(checkpoint), Reference(checkpoint, trap=trap)
    observations = [observe(seed=seed) for seed in range(4)]
    assert max(np.abs(wrong.actions(o) - right.actions(o)).max() for o in observations) > 1e-5
