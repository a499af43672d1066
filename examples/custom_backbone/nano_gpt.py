"""A small GPT-2 style policy as a dyslctl backbone: causal pre-LN decoder, learned positions, tanh chunk head.

Read it beside README.md, which walks through it in the order of a control step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dyslctl.backbone import Backbone, BackboneOptions, BackboneSpec, Workload
from dyslctl.errors import ArtifactError, ConfigError
from dyslctl.types import ActionChunk, LayerInputs, LayerState, Observation, TokenKind

HIDDEN, HEADS = 64, 4
PATCHES, PATCH = 4, 8  # a camera image is averaged down to 32 x 32 pixels and cut into 4 x 4 patches of 8 x 8
VIEWS = ("agent", "wrist")
PROPRIO, TEXT = 8, 64  # TEXT: longest instruction, in bytes
CHUNK, ACTION_DIM, GRIPPER = 8, 7, 6
FIRST_ACTION = 1 + len(VIEWS) * PATCHES**2 + 1 + TEXT  # action tokens stand behind the longest instruction


class Block(nn.Module):
    """One GPT-2 decoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)
        self.qkv, self.proj = nn.Linear(HIDDEN, 3 * HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.up, self.down = nn.Linear(HIDDEN, 4 * HIDDEN), nn.Linear(4 * HIDDEN, HIDDEN)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """``x`` ``[B,T,H]``; ``allowed`` ``[B,1,T,T]`` bool, which key each query may read."""
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.ln_1(x)).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        x = x + self.proj(attended.transpose(1, 2).flatten(2))
        hidden: Tensor = x + self.down(F.gelu(self.up(self.ln_2(x))))
        return hidden


class Model(nn.Module):
    """Embeddings, blocks, head. What you already have, if you bring your own model."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.patch = nn.Linear(3 * PATCH**2, HIDDEN)
        self.proprio = nn.Linear(PROPRIO, HIDDEN)
        self.byte = nn.Embedding(256, HIDDEN)
        self.query = nn.Embedding(1 + CHUNK, HIDDEN)  # beginning of sequence, then one query an action
        self.position = nn.Embedding(FIRST_ACTION + CHUNK, HIDDEN)
        self.blocks = nn.ModuleList(Block() for _ in range(num_layers))
        self.ln_f, self.head = nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, ACTION_DIM)


class NanoGPT(Backbone):
    """The plugin: everything dyslctl asks of a backbone, in the order of a control step."""

    class Options(BackboneOptions):
        """``--set model.options.num_layers=12``."""

        num_layers: int = 8

    default_suite = "tabletop_object"

    @classmethod
    def default_checkpoint(cls) -> Path | str:
        return "random:0"

    def __init__(self, model: Model) -> None:
        self.model = model.eval().requires_grad_(False)
        self.spec = BackboneSpec(
            num_layers=len(model.blocks),
            hidden_size=HIDDEN,
            chunk_length=CHUNK,
            action_dim=ACTION_DIM,
            last_live_layer=len(model.blocks) - 1,
            gripper_dim=GRIPPER,
            fingerprint=fingerprint(model),
        )

    # ---- load

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        try:
            num_layers = cls.Options(**(options or {})).num_layers
        except ValidationError as error:
            raise ConfigError(f"options of nano-gpt: {error}") from error
        marker, _, seed = str(checkpoint).partition(":")
        if marker == "random" and seed.isdecimal():
            return cls(random_model(num_layers, int(seed)).to(device, dtype))
        return cls(load_model(Path(checkpoint), num_layers).to(device, dtype))

    @property
    def device(self) -> torch.device:
        return self.model.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.head.weight.dtype

    def workload(self) -> Workload:
        layer, patch = parameters(self.model.blocks[0]), parameters(self.model.patch)
        head = parameters(self.model.head)
        return Workload(
            num_layers=self.spec.num_layers,
            tokens=FIRST_ACTION + CHUNK,
            hidden_size=HIDDEN,
            layer_params=layer,
            encode_gflop=2e-9 * patch * len(VIEWS) * PATCHES**2,
            encode_params=patch + parameters(self.model.proprio),
            head_gflop=2e-9 * head * CHUNK,
            head_params=head,
        )

    # ---- encode

    def encode(self, observations: Sequence[Observation]) -> LayerInputs:
        words = [observation.instruction.encode()[:TEXT] for observation in observations]
        longest = max(map(len, words))
        text = torch.tensor([[*word, *bytes(longest - len(word))] for word in words], device=self.device)
        kinds = torch.tensor([token_kinds(len(word), longest) for word in words], device=self.device)
        hidden = torch.cat(
            [
                self.model.query.weight[:1].expand(len(words), -1, -1),
                *(self._patches(observations, view) for view in VIEWS),
                self.model.proprio(torch.stack([self._proprio(o) for o in observations]))[:, None],
                self.model.byte(text.long()),
                self.model.query.weight[1:].expand(len(words), -1, -1),
            ],
            dim=1,
        )
        before = torch.arange(kinds.shape[1] - CHUNK, device=self.device)
        actions = torch.arange(FIRST_ACTION, FIRST_ACTION + CHUNK, device=self.device)
        positions = torch.cat([before, actions]).expand(len(words), -1).contiguous()
        mask = kinds != TokenKind.PAD
        return LayerInputs(hidden + self.model.position(positions), positions, kinds, mask)

    def _patches(self, observations: Sequence[Observation], view: str) -> Tensor:
        """``[B, 16, H]``: one camera's patches."""
        images = torch.from_numpy(np.stack([checked_image(o, view) for o in observations]))
        pixels = images.to(self.device, self.dtype).permute(0, 3, 1, 2) / 127.5 - 1
        small = F.adaptive_avg_pool2d(pixels, PATCHES * PATCH)
        tokens: Tensor = self.model.patch(F.unfold(small, PATCH, stride=PATCH).transpose(1, 2))
        return tokens

    def _proprio(self, observation: Observation) -> Tensor:
        found = observation.proprio
        if found is None or found.shape != (PROPRIO,) or not np.isfinite(found).all():
            raise ConfigError(f"nano-gpt expects proprio of {PROPRIO} finite numbers, found {found}")
        return torch.from_numpy(found).to(self.device, self.dtype)

    # ---- run_layer

    def run_layer(self, layer: int, state: LayerState) -> Tensor:
        if state.context is None:
            state.context = causal_mask(state)
        hidden: Tensor = self.model.blocks[layer](state.hidden, state.context)
        return hidden

    # ---- predict, decode_action

    def predict(self, state: LayerState) -> Tensor:
        queries = state.hidden[state.kinds == TokenKind.ACTION].view(-1, CHUNK, HIDDEN)
        return torch.tanh(self.model.head(self.model.ln_f(queries)))

    def decode_action(self, predicted: Tensor) -> list[ActionChunk]:
        normalized = predicted.detach().float().cpu().numpy().copy()
        normalized[..., GRIPPER] = np.where(normalized[..., GRIPPER] > 0, 1, -1)
        return [ActionChunk(actions=chunk.copy(), normalized=chunk) for chunk in normalized]

    # ---- training targets

    def normalize(self, actions: np.ndarray) -> np.ndarray:
        return np.asarray(actions, np.float32)  # the suite's actions already lie in [-1, 1]

    def task_loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        return (predicted - target).abs().mean((1, 2))


def token_kinds(length: int, longest: int) -> list[int]:
    """What each token of one observation is; its instruction has ``length`` bytes, the longest ``longest``."""
    vision = [TokenKind.VISION + view for view in range(len(VIEWS)) for _ in range(PATCHES**2)]
    text = [TokenKind.TEXT] * length + [TokenKind.PAD] * (longest - length)
    return [TokenKind.BOS, *vision, TokenKind.PROPRIO, *text, *[TokenKind.ACTION] * CHUNK]


def causal_mask(state: LayerState) -> Tensor:
    """``[B,1,T,T]``: a query reads real tokens at its own position or before, whichever tokens are left."""
    allowed = state.positions[:, :, None] >= state.positions[:, None, :]
    if state.mask is not None:
        allowed = allowed & state.mask[:, None, :]
    return allowed[:, None]


def checked_image(observation: Observation, view: str) -> np.ndarray:
    """``[height, width, 3]`` uint8, or a :class:`ConfigError` that says what is wrong."""
    image = observation.images.get(view)
    if image is None:
        raise ConfigError(f"nano-gpt needs the views {VIEWS}, found {tuple(observation.images)}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ConfigError(f"view '{view}' is {image.dtype} {image.shape}, expected uint8 [height, width, 3]")
    return image


def random_model(num_layers: int, seed: int) -> Model:
    """Seeded weights, without touching the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Model(num_layers)


def load_model(path: Path, num_layers: int) -> Model:
    """A ``.safetensors`` file of this model, strictly: every name and shape that is wrong is listed at once."""
    model = Model(num_layers)
    try:
        model.load_state_dict(load_file(path), strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(
            f"{path} is no nano-gpt checkpoint: {error}", hint="use random:0 or a .safetensors"
        ) from error
    if bad := [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]:
        raise ArtifactError(f"{path}: weights are not finite: {', '.join(bad)}")
    return model


def fingerprint(model: Model) -> str:
    """Hash of every weight: artifacts made with other weights will be refused."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def parameters(module: nn.Module) -> int:
    """How many numbers ``module`` holds."""
    return sum(parameter.numel() for parameter in module.parameters())
