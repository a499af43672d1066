"""A backbone and a task suite small enough for unit tests: random weights, no files, no simulator.

Tests get them through the fixtures of ``conftest.py``, since test modules are not importable by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from dyslctl.backbone import Backbone, BackboneSpec, PackedLayer, PackLinear, Workload
from dyslctl.errors import ConfigError, PluginError
from dyslctl.suite import (
    Demonstration,
    Disturb,
    Environment,
    EpisodeSpec,
    Split,
    StepResult,
    TaskSuite,
    undisturbed,
)
from dyslctl.types import ActionChunk, KeysValues, LayerInputs, LayerState, Observation, TokenKind

IMAGE, PATCH, WORDS, MAX_STEP, WINDOW = 8, 4, 4, 0.1, 12


class TinyLayer(nn.Module):
    """A pre-norm transformer layer with one bidirectional attention head."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.attention_out = nn.Linear(hidden_size, hidden_size)
        self.mlp = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.Linear(hidden_size, 2 * hidden_size),
            nn.GELU(),
            nn.Linear(2 * hidden_size, hidden_size),
        )

    def forward(self, x: Tensor, places: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.qkv(self.attention_norm(x)).chunk(3, -1)
        scores = (q + places) @ (k + places).transpose(1, 2) / math.sqrt(x.shape[-1]) + bias
        x = x + self.attention_out(scores.softmax(-1) @ v)
        output: Tensor = x + self.mlp(x)
        return output


class TinyBackbone(Backbone):
    """Tokens: BOS, 4 vision patches, proprio, 4 words (short instructions are padded), ``N`` actions, STOP.

    With ``memory`` the head is an LSTM that carries its state for 12 calls and then replays its last 12 features from
    a zero state, as RoboFlamingo's does.
    """

    default_suite = "tiny_reach"
    _carried: tuple[Tensor, Tensor] | None
    _window: list[Tensor]

    def __init__(
        self,
        num_layers: int = 8,
        hidden_size: int = 16,
        chunk_length: int = 4,
        *,
        memory: bool = False,
        last_live_layer: int | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.spec = BackboneSpec(
            num_layers=num_layers,
            hidden_size=hidden_size,
            chunk_length=chunk_length,
            action_dim=3,
            last_live_layer=num_layers - 1 if last_live_layer is None else last_live_layer,
            gripper_dim=2,
            fingerprint=f"tiny-{num_layers}-{hidden_size}-{chunk_length}-{seed}",
            window=WINDOW if memory else 1,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.patches = nn.Linear(PATCH * PATCH * 3, hidden_size)
            self.proprio = nn.Linear(2, hidden_size)
            self.special = nn.Embedding(32, hidden_size)
            self.layers = nn.ModuleList(TinyLayer(hidden_size) for _ in range(num_layers))
            self.lstm = nn.LSTM(hidden_size, hidden_size, batch_first=True) if memory else None
            self.norm = nn.LayerNorm(hidden_size)
            self.out = nn.Linear(hidden_size, 3)
        for module in self._modules():
            module.eval().requires_grad_(False).to(dtype)
        self.reset()

    def _modules(self) -> list[nn.Module]:
        parts = [self.patches, self.proprio, self.special, self.layers, self.lstm, self.norm, self.out]
        return [part for part in parts if part is not None]

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for module in self._modules() for parameter in module.parameters()]

    @classmethod
    def default_checkpoint(cls) -> Path | str:
        return "tiny"

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
        cls.Options.model_validate(options or {})
        return cls(dtype=dtype)

    def workloads(self) -> Mapping[str, Workload]:
        return {"tiny-1b": Workload(24, 64, 2048, 50_000_000, 100.0, 300_000_000, 1.0, 10_000_000)}

    def workload(self) -> Workload:
        layer_params = sum(p.numel() for p in self.layers[0].parameters())
        tokens = 1 + (IMAGE // PATCH) ** 2 + 1 + WORDS + self.spec.chunk_length + 1
        return Workload(self.spec.num_layers, tokens, self.spec.hidden_size, layer_params, 1e-6, 1000, 1e-7, 51)

    @property
    def device(self) -> torch.device:
        return self.out.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.out.weight.dtype

    def encode(self, observations: Sequence[Observation]) -> LayerInputs:
        rows = [self._kinds_and_ids(observation.instruction) for observation in observations]
        kinds = torch.tensor([kind for kind, _ in rows])
        hidden = self.special(torch.tensor([ids for _, ids in rows]))
        patch_tokens = self.patches(torch.stack([self._image_patches(o) for o in observations]))
        proprio_token = self.proprio(torch.stack([self._proprio(o) for o in observations]))
        hidden = torch.cat([hidden[:, :1], patch_tokens, proprio_token[:, None], hidden[:, 6:]], 1)
        positions = torch.arange(kinds.shape[1]).expand(len(rows), -1).contiguous()
        mask = kinds != TokenKind.PAD
        return LayerInputs(hidden, positions, kinds, None if bool(mask.all()) else mask)

    def run_layer(self, layer: int, state: LayerState) -> Tensor:
        if state.context is None:
            state.context = self._context(state)
        output: Tensor = self.layers[layer](state.hidden, *state.context)
        return output

    def attention_rows(self, layer: int, state: LayerState, queries: Tensor) -> Tensor:
        if state.context is None:
            state.context = self._context(state)
        one: Any = self.layers[layer]
        places, bias = state.context
        q, k, _ = one.qkv(one.attention_norm(state.hidden)).chunk(3, -1)
        scores = (q + places) @ (k + places).transpose(1, 2) / math.sqrt(q.shape[-1]) + bias
        rows: Tensor = scores.softmax(-1).gather(1, queries[..., None].expand(-1, -1, scores.shape[-1]))
        return rows[:, None].float()

    def run_layer_beside(self, layer: int, state: LayerState, beside: KeysValues | None) -> tuple[Tensor, KeysValues]:
        if state.context is None:
            state.context = self._context(state)
        one: Any = self.layers[layer]
        places, bias = state.context
        q, k, v = one.qkv(one.attention_norm(state.hidden)).chunk(3, -1)
        own = KeysValues(state.positions, (k + places)[:, None], v[:, None])
        if beside is None:
            return one(state.hidden, places, bias), own
        every = own.and_(beside)
        bias = nn.functional.pad(bias, (0, len(beside.positions[0])))
        scores = (q + places) @ every.keys[:, 0].transpose(1, 2) / math.sqrt(q.shape[-1]) + bias
        x = state.hidden + one.attention_out(scores.softmax(-1) @ every.values[:, 0])
        return x + one.mlp(x), own

    def keys_values(self, layer: int, state: LayerState) -> KeysValues:
        one: Any = self.layers[layer]
        _, k, v = one.qkv(one.attention_norm(state.hidden)).chunk(3, -1)
        return KeysValues(state.positions, (k + self._context(state)[0])[:, None], v[:, None])

    def packed_layers(self, pack: PackLinear, *, keep: bool) -> Sequence[PackedLayer]:
        return [self._packed(layer, pack) for layer in self.layers]

    def _packed(self, layer: Any, pack: PackLinear) -> PackedLayer:
        """The same layer, its four products packed; LayerNorm and biases, unlike LLaMA's."""
        norm, first, gelu, second = layer.mlp
        qkv, out, up, down = (pack(one.weight, one.bias) for one in (layer.qkv, layer.attention_out, first, second))

        def run(state: LayerState) -> Tensor:
            if state.context is None:
                state.context = self._context(state)
            places, bias = state.context
            x = state.hidden
            q, k, v = qkv(layer.attention_norm(x)).chunk(3, -1)
            scores = (q + places) @ (k + places).transpose(1, 2) / math.sqrt(x.shape[-1]) + bias
            x = x + out(scores.softmax(-1) @ v)
            return x + down(gelu(up(norm(x))))

        return run

    def predict(self, state: LayerState) -> Tensor:
        is_action = state.kinds == TokenKind.ACTION
        features = state.hidden[is_action].view(state.hidden.shape[0], self.spec.chunk_length, -1)
        if self.lstm is not None:
            feature = features.mean(1, keepdim=True)
            features = features + (self._remember(feature) if state.history is None else self._after(feature, state))
        return torch.tanh(self.out(self.norm(features)))

    def decode_action(self, predicted: Tensor) -> list[ActionChunk]:
        normalized = predicted.detach().float().cpu().numpy().copy()
        normalized[..., 2] = np.where(normalized[..., 2] > 0, 1.0, -1.0)
        actions = normalized * np.array([MAX_STEP, MAX_STEP, 1.0], np.float32)
        return [ActionChunk(a, n) for a, n in zip(actions, normalized, strict=True)]

    def normalize(self, actions: np.ndarray) -> np.ndarray:
        scaled = np.asarray(actions, np.float32) / np.array([MAX_STEP, MAX_STEP, 1.0], np.float32)
        return np.clip(scaled, -1, 1)

    def task_loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        return (predicted - target).abs().mean((1, 2))

    def snapshot(self) -> object:
        return None if self.lstm is None else (self._carried, list(self._window))

    def restore(self, memory: object) -> None:
        if isinstance(memory, tuple):
            self._carried, self._window = memory[0], list(memory[1])

    def reset(self) -> None:
        self._carried, self._window = None, []

    def history(self) -> Tensor | None:
        if self.lstm is None:
            return None
        last = [feature.flatten() for feature in self._window[-(WINDOW - 1) :]]
        row = torch.zeros(1 + (WINDOW - 1) * self.spec.hidden_size)
        row[0] = len(last)
        row[1 : 1 + len(last) * self.spec.hidden_size] = torch.cat(last) if last else torch.empty(0)
        return row

    def _remember(self, feature: Tensor) -> Tensor:
        assert self.lstm is not None
        self._window.append(feature)
        if len(self._window) <= WINDOW:
            output, self._carried = self.lstm(feature, self._carried)
        else:
            self._window, self._carried = self._window[-WINDOW:], None
            output, _ = self.lstm(torch.cat(self._window, 1))
        last: Tensor = output[:, -1:]
        return last

    def _after(self, feature: Tensor, state: LayerState) -> Tensor:
        assert self.lstm is not None and state.history is not None
        rows = []
        for history, own in zip(state.history, feature, strict=True):
            past = history[1:].view(WINDOW - 1, -1)[: int(history[0])].to(own.dtype)
            rows.append(self.lstm(torch.cat([past, own])[None])[0][:, -1:])
        return torch.cat(rows)

    def _context(self, state: LayerState) -> tuple[Tensor, Tensor]:
        half = self.spec.hidden_size // 2
        angles = state.positions[..., None] * torch.logspace(0, -2, half)
        places = torch.cat([angles.sin(), angles.cos()], -1).to(state.hidden.dtype)
        mask = torch.ones_like(state.positions, dtype=torch.bool) if state.mask is None else state.mask
        bias = torch.zeros_like(mask, dtype=state.hidden.dtype).masked_fill(~mask, float("-inf"))
        return places, bias[:, None, :]

    def _kinds_and_ids(self, instruction: str) -> tuple[list[int], list[int]]:
        words = [sum(map(ord, word)) % 16 + 16 for word in instruction.split()][:WORDS]
        padding, actions = WORDS - len(words), self.spec.chunk_length
        kinds = [TokenKind.BOS] + [TokenKind.VISION] * 4 + [TokenKind.PROPRIO] + [TokenKind.TEXT] * len(words)
        kinds += [TokenKind.PAD] * padding + [TokenKind.ACTION] * actions + [TokenKind.STOP]
        ids = [1] + [0] * 5 + words + [0] * padding + list(range(3, 3 + actions)) + [2]
        return [int(kind) for kind in kinds], ids

    def _image_patches(self, observation: Observation) -> Tensor:
        view = next(iter(observation.images.values()), None)
        if view is None or view.shape != (IMAGE, IMAGE, 3) or not np.isfinite(view).all():
            found = "no image" if view is None else f"an image of shape {view.shape}"
            raise ConfigError(f"expected one finite [{IMAGE}, {IMAGE}, 3] image, found {found}")
        pixels = torch.from_numpy(view.astype(np.float32) / 255).to(self.dtype)
        side = IMAGE // PATCH
        return pixels.view(side, PATCH, side, PATCH, 3).permute(0, 2, 1, 3, 4).reshape(side * side, -1)

    def _proprio(self, observation: Observation) -> Tensor:
        if observation.proprio is None:
            raise ConfigError("expected proprio [2], found none")
        return torch.from_numpy(np.asarray(observation.proprio, np.float32)).to(self.dtype)


class TinyReach(TaskSuite):
    """Move a point to the named goal and close the gripper there. ``chain`` subtasks in a row, alternating goals."""

    name = "tiny_reach"
    execute_horizon = 2
    action_dim = 3

    def __init__(self, chain: int = 1) -> None:
        self.max_score, self.max_steps = chain, 50 * chain

    @property
    def tasks(self) -> Sequence[str]:
        return ("reach_red", "reach_blue")

    def episodes(self, split: Split, count: int) -> list[EpisodeSpec]:
        base = {"train": 0, "tune": 1_000_000, "test": 2_000_000}[split]
        return [EpisodeSpec(self.name, split, i, self.tasks[i % 2], base + i) for i in range(count)]

    def make(self) -> Environment:
        return TinyWorld(self.max_score, self.max_steps)

    def demonstrate(self, spec: EpisodeSpec) -> Demonstration:
        return self.demonstrate_disturbed(spec, undisturbed)

    def demonstrate_disturbed(self, spec: EpisodeSpec, disturb: Disturb) -> Demonstration:
        world = TinyWorld(self.max_score, self.max_steps)
        observation, done, score = world.reset(spec), False, 0
        observations, actions = [], []
        while not done:
            observations.append(observation)
            actions.append(world.expert_action())
            result = world.step(disturb(actions[-1], observations[-1]))
            observation, done, score = result.observation, result.done, result.score
        return Demonstration(spec, observations, np.stack(actions), score)


class TinyWorld(Environment):
    """A unit square with a red and a blue goal; 0.1 units a step at most."""

    def __init__(self, chain: int, max_steps: int) -> None:
        self.chain, self.max_steps = chain, max_steps

    def reset(self, spec: EpisodeSpec) -> Observation:
        rng = np.random.default_rng(spec.seed)
        self.point, self.goals = rng.uniform(-1, 1, 2), rng.uniform(-1, 1, (2, 2))
        self.first = 0 if spec.task == "reach_red" else 1
        self.steps = self.score = 0
        return self._observe()

    def step(self, action: np.ndarray) -> StepResult:
        if action.shape != (3,) or not np.isfinite(action).all():
            raise PluginError(f"expected a finite action [3], found {action}")
        self.point = np.clip(self.point + np.clip(action[:2], -MAX_STEP, MAX_STEP), -1, 1)
        self.steps += 1
        solved = bool(action[2] > 0) and float(np.linalg.norm(self.point - self.goal)) < MAX_STEP
        self.score += solved
        done = self.score == self.chain or self.steps == self.max_steps
        return StepResult(self._observe(), done, self.score, solved and not done)

    def render(self) -> np.ndarray:
        image = np.zeros((IMAGE, IMAGE, 3), np.uint8)
        for channel, place in ((0, self.goals[0]), (2, self.goals[1]), (1, self.point)):
            row, column = ((place + 1) / 2 * (IMAGE - 1)).round().astype(int)
            image[row, column, channel] = 255
        return image

    @property
    def goal(self) -> np.ndarray:
        place: np.ndarray = self.goals[(self.first + self.score) % 2]
        return place

    def expert_action(self) -> np.ndarray:
        """Straight to the goal, then close the gripper."""
        way = self.goal - self.point
        distance = float(np.linalg.norm(way))
        move = way * min(1.0, MAX_STEP / max(distance, 1e-9)) / math.sqrt(2)
        return np.append(move, 1.0 if distance < MAX_STEP / 2 else -1.0).astype(np.float32)

    def _observe(self) -> Observation:
        colour = ("red", "blue")[(self.first + self.score) % 2]
        return Observation({"agent": self.render()}, f"reach {colour}", self.point.astype(np.float32))
