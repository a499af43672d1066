"""The whole network once more, from the files: published names, one function, none of the plugin's modules.

Every mistake that would fail nothing is made here on purpose and must give other actions, so that equality with the
plugin's, bit for bit, would notice it there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dyslctl_roboflamingo import RoboFlamingo
from dyslctl_roboflamingo.config import SIZES, Files, Settings, settings_of
from dyslctl_roboflamingo.random_checkpoint import write_random_checkpoint
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from dyslctl.policy import full_policy
from dyslctl.types import Observation

STEPS = 15
TRAPS = (
    "patches behind the last norm",
    "class token among the patches",
    "GELU in CLIP",
    "no norm on queries and keys",
    "alibi of the other direction",
    "no causal mask",
    "after the last block",
    "mean over the tokens",
    "the image mark is no token",
    "cross-attention behind the block",
    "state carried on for ever",
    "window replayed from the carried state",
)
LARGE_TRAPS = ("norm on queries and keys", "before the last block", "no final norm")
NAMES = {"norm_1": "ln_1", "norm_2": "ln_2", "ffn.up_proj": "mlp.mlp_up", "ffn.down_proj": "mlp.mlp_down"}
"""Of MPT-7B's block -> of MPT-1B's."""


class Reference:
    """``trap``: the mistake to make, or none."""

    def __init__(self, folder: Path, settings: Settings, trap: str = "") -> None:
        policy = torch.load(folder / "checkpoint.pth", weights_only=True)["model_state_dict"]
        self.w: dict[str, Tensor] = {key.removeprefix("module."): tensor for key, tensor in policy.items()}
        self.w |= torch.load(folder / "clip.pth", weights_only=True)
        self.large = settings.final_norm
        if self.large:
            self.w |= torch.load(folder / "language_model.pth", weights_only=True)
            for new, old in NAMES.items():
                self.w = {key.replace(f".{new}.", f".{old}."): tensor for key, tensor in self.w.items()}
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.settings, self.trap, head = settings, trap, settings.head
        self.lstm = nn.LSTM(settings.language_model.width, head.width, head.layers, batch_first=True)
        self.lstm.load_state_dict({n: self.w[f"lm_head.rnn.{n}"] for n in self.lstm.state_dict()})
        self.state: tuple[Tensor, Tensor] | None = None
        self.history: list[Tensor] = []

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def pixels(self, image: np.ndarray) -> Tensor:
        small = np.asarray(Image.fromarray(image).resize((28, 28), Image.Resampling.BICUBIC))
        values = torch.from_numpy(small.copy()).permute(2, 0, 1).float() / 255
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
        return (values - mean) / torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]

    def clip(self, pixels: Tensor) -> Tensor:
        """``[V, 3, 28, 28]`` -> ``[V, 4, 24]``."""
        v, config = "vision_model", self.settings.vision
        x = F.conv2d(pixels, self.w[f"{v}.embeddings.patch_embedding.weight"], stride=14).flatten(2).transpose(1, 2)
        cls = self.w[f"{v}.embeddings.class_embedding"].expand(len(x), 1, -1)
        x = torch.cat([cls, x], 1) + self.w[f"{v}.embeddings.position_embedding.weight"][None]
        x = self.norm(f"{v}.pre_layrnorm", x)
        for index in range(config.layers):
            layer = f"{v}.encoder.layers.{index}"
            normed = self.norm(f"{layer}.layer_norm1", x)
            q, k, value = (
                self.linear(f"{layer}.self_attn.{part}_proj", normed).unflatten(-1, (config.heads, -1)).transpose(1, 2)
                for part in "qkv"
            )
            mixed = F.scaled_dot_product_attention(q, k, value).transpose(1, 2).flatten(2)
            x = x + self.linear(f"{layer}.self_attn.out_proj", mixed)
            inner = self.linear(f"{layer}.mlp.fc1", self.norm(f"{layer}.layer_norm2", x))
            inner = F.gelu(inner) if self.trap == "GELU in CLIP" else inner * torch.sigmoid(1.702 * inner)
            x = x + self.linear(f"{layer}.mlp.fc2", inner)
        if self.trap == "patches behind the last norm":
            x = self.norm(f"{v}.post_layernorm", x)
        return x if self.trap == "class token among the patches" else x[:, 1:]

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """Flamingo's: the scale on the queries, the largest score taken off."""
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        scores = (q * q.shape[-1] ** -0.5) @ k.mT
        weights = (scores - scores.amax(-1, keepdim=True)).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    def feed_forward(self, name: str, x: Tensor) -> Tensor:
        return self.linear(f"{name}.3", F.gelu(self.linear(f"{name}.1", self.norm(f"{name}.0", x))))

    def perceiver(self, patches: Tensor) -> Tensor:
        x, heads = self.w["perceiver.latents"].expand(len(patches), -1, -1), self.settings.perceiver.heads
        for index in range(self.settings.perceiver.layers):
            name = f"perceiver.layers.{index}"
            latents = self.norm(f"{name}.0.norm_latents", x)
            seen = torch.cat([self.norm(f"{name}.0.norm_media", patches), latents], 1)
            k, v = self.linear(f"{name}.0.to_kv", seen).chunk(2, -1)
            mixed = self.attention(self.linear(f"{name}.0.to_q", latents), k, v, heads)
            x = self.linear(f"{name}.0.to_out", mixed) + x
            x = self.feed_forward(f"{name}.1", x) + x
        return self.norm("perceiver.norm", x)

    def cross_attention(self, index: int, x: Tensor, media: Tensor) -> Tensor:
        name = f"lang_encoder.gated_cross_attn_layers.{index}"
        q = self.linear(f"{name}.attn.to_q", self.norm(f"{name}.attn.norm", x))
        k, v = self.linear(f"{name}.attn.to_kv", media).chunk(2, -1)
        mixed = self.linear(f"{name}.attn.to_out", self.attention(q, k, v, self.settings.cross_attention.heads))
        x = mixed * self.w[f"{name}.attn_gate"].tanh() + x
        return self.feed_forward(f"{name}.ff", x) * self.w[f"{name}.ff_gate"].tanh() + x

    def block(self, index: int, x: Tensor) -> Tensor:
        name, heads, tokens = f"lang_encoder.old_decoder_blocks.{index}", self.settings.language_model.heads, x.shape[1]
        q, k, v = self.linear(f"{name}.attn.Wqkv", self.norm(f"{name}.ln_1", x)).chunk(3, -1)
        if self.trap == "norm on queries and keys":
            q, k = F.layer_norm(q, q.shape[-1:]), F.layer_norm(k, k.shape[-1:])
        elif not self.large and self.trap != "no norm on queries and keys":
            q, k = self.norm(f"{name}.attn.q_ln", q), self.norm(f"{name}.attn.k_ln", k)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        slopes = torch.tensor([2.0 ** (-8 * (head + 1) / heads) for head in range(heads)])[:, None, None]
        distance = torch.arange(1 - tokens, 1)[None, None]
        if self.trap == "alibi of the other direction":
            distance = -torch.arange(tokens)[None, None]
        scores = (q @ k.mT) * (1 / q.shape[-1] ** 0.5) + slopes * distance
        if self.trap != "no causal mask":
            later = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, torch.finfo(torch.float32).min)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + self.linear(f"{name}.attn.out_proj", mixed)
        inner = F.gelu(self.linear(f"{name}.mlp.mlp_up", self.norm(f"{name}.ln_2", x)))
        return x + self.linear(f"{name}.mlp.mlp_down", inner)

    def features(self, observation: Observation) -> Tensor:
        """``[1, H]``."""
        views = list(observation.images.values())
        media = self.perceiver(self.clip(torch.stack([self.pixels(view) for view in views]))).flatten(0, 1)[None]
        ids = self.tokenizer.encode(f"<image>{observation.instruction}<|endofchunk|><|endoftext|>").ids
        ids = ids[1:] if self.trap == "the image mark is no token" else ids
        x = self.w["lang_encoder.transformer.wte.weight"][ids][None]
        every = self.settings.cross_attention.every
        whole = self.trap == "after the last block" or (self.large and self.trap != "before the last block")
        for index in range(self.settings.language_model.layers - (not whole)):
            sees = (index + 1) % every == 0
            if sees and self.trap == "cross-attention behind the block":
                x = self.cross_attention(index, self.block(index, x), media)
            else:
                x = self.block(index, self.cross_attention(index, x, media) if sees else x)
        if self.large and self.trap != "no final norm":
            x = self.norm("transformer.norm_f", x)
        return x.mean(1) if self.trap == "mean over the tokens" else x.amax(1)

    def recur(self, feature: Tensor) -> Tensor:
        self.history = [*self.history, feature][-12:] if len(self.history) == 12 else [*self.history, feature]
        full = len(self.history) == 12 and self.state is None
        if self.trap == "state carried on for ever" or not full:
            out, self.state = self.lstm(feature[:, None], self.state)
            if self.trap not in ("state carried on for ever", "window replayed from the carried state"):
                self.state = None if len(self.history) == 12 else self.state
            return out[:, -1]
        out, _ = self.lstm(torch.stack(self.history, 1), self.state)
        return out[:, -1]

    @torch.no_grad()
    def act(self, observation: Observation) -> np.ndarray:
        """``[7]``, as it is executed."""
        x = self.recur(self.features(observation))
        outputs = []
        for part in ("actions", "gripper"):
            y = x
            for index in (0, 2, 4):
                y = F.relu(self.linear(f"lm_head.{part}.mlp.{index}", y))
            outputs.append(self.linear(f"lm_head.{part}.mlp.6", y))
        gripper = 1.0 if outputs[1].sigmoid().item() > 0.5 else -1.0
        return np.append(outputs[0].tanh()[0].numpy(), np.float32(gripper))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings]:
    folder = tmp_path_factory.mktemp("reference") / "c"
    settings = settings_of("tiny", Files(policy="checkpoint.pth"))
    write_random_checkpoint(folder, settings, seed=3)
    return folder, settings


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings]:
    """What the 9B model does otherwise, at the size of the other one."""
    folder = tmp_path_factory.mktemp("reference") / "large"
    files = Files(policy="checkpoint.pth", vision="clip.pth", language_model="language_model.pth")
    raw = settings_of("tiny", files).dump()
    for name, value in SIZES["9b"].items():
        raw[name] = {**raw[name], **value, **SIZES["tiny"].get(name, {})} if isinstance(value, dict) else value
    settings = Settings.parse(raw, "large")
    write_random_checkpoint(folder, settings, seed=4)
    return folder, settings


@pytest.fixture(scope="module")
def seen(observe: Callable[..., Observation]) -> list[Observation]:
    """More steps than the head's window, one instruction."""
    return [observe("push the sliding door to the left side", seed) for seed in range(STEPS)]


@pytest.mark.parametrize("model", ["checkpoint", "large"])
def test_actions_equal_the_reference_bit_for_bit(
    model: str, seen: list[Observation], request: pytest.FixtureRequest
) -> None:
    checkpoint: tuple[Path, Settings] = request.getfixturevalue(model)
    policy, reference = full_policy(RoboFlamingo.load(checkpoint[0]), 1), Reference(*checkpoint)
    policy.reset()
    for step, observation in enumerate(seen):
        (action,) = policy.select_action(observation).actions
        np.testing.assert_array_equal(action, reference.act(observation), str(step))


@pytest.mark.parametrize(
    ("model", "trap"), [*(("checkpoint", trap) for trap in TRAPS), *(("large", trap) for trap in LARGE_TRAPS)]
)
def test_a_trap_changes_the_actions(
    model: str, trap: str, seen: list[Observation], request: pytest.FixtureRequest
) -> None:
    checkpoint: tuple[Path, Settings] = request.getfixturevalue(model)
    right, wrong = Reference(*checkpoint), Reference(*checkpoint, trap)
    steps = STEPS if "carried" in trap else 1
    assert any(not np.array_equal(right.act(o), wrong.act(o)) for o in seen[:steps])


def test_the_order_of_the_views_is_no_trap(checkpoint: tuple[Path, Settings], seen: list[Observation]) -> None:
    """Latents of both views are attended to together, and nothing says which is whose."""
    reference, observation = Reference(*checkpoint), seen[0]
    turned = replace(observation, images=dict(reversed(observation.images.items())))
    np.testing.assert_allclose(Reference(*checkpoint).act(turned), reference.act(observation), atol=1e-4)
