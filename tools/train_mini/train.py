"""Train the embedded mini OpenVLA-OFT on the table top, from scratch, on a CPU.

    python tools/train_mini/train.py --steps 3000 --out .scratch/mini
    python tools/train_mini/train.py --layers 24 --init .scratch/mini/checkpoint --out .scratch/mini24 ...

The second form keeps everything of a trained model but its decoder layers, as large VLAs start from trained towers.
Two single-threaded processes average their gradients (two threads in one process are slower). Each makes its own data
as it goes (``frames.py``). ``--resume`` goes on from the last checkpoint, also with a larger ``--steps``: the learning
rate is constant until ``--decay-from`` and falls linearly to zero at ``--steps``. What is shipped is the exponential
average of the weights, without the auxiliary heads: a plain OpenVLA-OFT in the published file layout.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from auxiliary import AuxiliaryHeads
from dyslctl_openvla_oft import OpenVLAOFT
from dyslctl_openvla_oft.actions import decode, normalize, statistics_of
from dyslctl_openvla_oft.checkpoint import read_checkpoint
from dyslctl_openvla_oft.config import ActionConfig, OFTConfig
from dyslctl_openvla_oft.modeling import OFTModel
from dyslctl_openvla_oft.processing import PreprocessorConfig, pixels
from dyslctl_openvla_oft.statistics import DatasetStatistics
from dyslctl_openvla_oft.tokenizer import PromptTokenizer, build_tokenizer
from dyslctl_openvla_oft.weights import load_model
from dyslctl_openvla_oft.writer import write_checkpoint
from frames import CHUNK, HORIZON, Actor, Frames, Replay
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dyslctl.jobs import behaviour
from dyslctl.plugins import load_suite
from dyslctl.suites.tabletop.expert import expert
from dyslctl.suites.tabletop.tasks import KINDS, TASKS_PER_SUITE, instruction
from dyslctl.suites.tabletop.world import World

TOWER = {"width": 96, "depth": 3, "heads": 4, "mlp": 192}
CONFIG: dict[str, Any] = {
    "image_sizes": [56, 56],
    "text_config": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
    },
    "vision_config": {"dino": {**TOWER, "registers": 1}, "siglip": TOWER},
    "oft": {"chunk_length": CHUNK, "action_dim": 7, "proprio_dim": 8, "num_images": 2, "center_crop": False},
}
MIDDLE = 5 / 12
"""Where the grounding probes read, as a share of the depth: the layers before must have understood the instruction."""
SCENES = {"object": 72, "spatial": 24, "chain": 40}
MATRIX_LR, OTHER_LR, EMA_DECAY = 0.006, 2e-3, 0.998
DIM_WEIGHTS = torch.tensor([1, 1, 1, 0.3, 0.3, 1, 0.7])
STEP_WEIGHTS = torch.tensor([1.0] * HORIZON + [0.6] * (CHUNK - HORIZON))


@dataclass
class Vocabulary:
    """All instructions of the three suites, tokenised; every prompt has the same length, so no batch needs padding."""

    numbers: dict[str, int]
    input_ids: Tensor
    tokenizer: PromptTokenizer

    @classmethod
    def build(cls) -> Vocabulary:
        texts = sorted({instruction(k, t, s) for k in KINDS for t in range(TASKS_PER_SUITE) for s in _stages(k)})
        tokenizer = build_tokenizer(texts)
        return cls({t: n for n, t in enumerate(texts)}, torch.tensor([tokenizer.encode(t) for t in texts]), tokenizer)


def _stages(kind: str) -> range:
    return range(5 if kind == "chain" else 1)


def demonstration_statistics(config: ActionConfig, episodes: int = 300) -> DatasetStatistics:
    """Ranges of the expert's actions and proprioception over all suites."""
    actions, proprio = [], []
    for kind in KINDS:
        world = World.sample(kind, np.arange(episodes))
        while not world.done.all():
            live, action = ~world.done, expert(world)
            actions.append(action[live])
            proprio.append(world.proprio()[live])
            world.step(action)
    return statistics_of(np.concatenate(actions), np.concatenate(proprio), episodes * len(KINDS), config)


@dataclass(frozen=True)
class Batches:
    """Frames -> the model's normalised tensors, by the plugin's own processing."""

    config: OFTConfig
    statistics: DatasetStatistics
    input_ids: Tensor

    def inputs(self, frames: Frames) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Arguments of :meth:`OFTModel.embed`."""
        images = np.stack([frames["agent"], frames["wrist"]], 1)
        proprio = torch.from_numpy(self.statistics.proprio.normalize(frames["proprio"]))
        ids = self.input_ids[torch.from_numpy(frames["instruction"])]
        lengths = torch.full((len(ids),), ids.shape[1])
        return pixels(images, PreprocessorConfig.of(self.config), center_crop=False), proprio, ids, lengths

    def targets(self, frames: Frames) -> Tensor:
        """``[B, N, A]``."""
        return torch.from_numpy(normalize(frames["actions"], self.statistics.action, self.config.oft))

    def executed(self, predicted: Tensor) -> np.ndarray:
        """``[B, N, A]`` as the robot executes them."""
        flat = predicted.flatten(0, 1).numpy()
        return decode(flat, self.statistics.action, self.config.oft).actions.reshape(predicted.shape)


def initialise(model: OFTModel) -> None:
    """Residual branches start small, everything else at unit gain."""
    depth = 2 * model.num_layers
    for name, weight in model.language_model.layers.named_parameters():
        if weight.ndim == 2:
            gain = 0.7 / depth**0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.7
            nn.init.normal_(weight, std=gain * weight.shape[1] ** -0.5)
    nn.init.normal_(model.language_model.embed_tokens.weight, std=0.5)
    nn.init.zeros_(model.action_head.model.fc2.weight)


def take_all_but_layers(model: OFTModel, folder: Path) -> None:
    """Vision towers, projector, embeddings and head of the checkpoint in ``folder``; the decoder layers stay random."""
    trained = load_model(folder, read_checkpoint(folder).config, device="cpu", dtype=torch.float32)
    layers = "language_model.layers."
    weights = {name: weight for name, weight in trained.state_dict().items() if not name.startswith(layers)}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or not all(name.startswith(layers) for name in missing):
        raise ValueError(f"{folder} does not fit: {unexpected or missing}")


def optimizers(model: OFTModel, heads: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside transformer blocks, AdamW for the rest."""
    blocks = [*model.language_model.layers.parameters(), *model.vision_backbone.parameters()]
    matrices = [p for p in blocks if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in [*model.parameters(), *heads.parameters()] if id(p) not in chosen]
    muon = torch.optim.Muon(matrices, lr=MATRIX_LR, weight_decay=0.01, momentum=0.95)
    return [muon, torch.optim.AdamW(rest, lr=OTHER_LR, betas=(0.9, 0.98), weight_decay=0.0)]


class Trainer:
    """One rank's share of the work; both hold the same weights."""

    def __init__(self, args: argparse.Namespace, rank: int) -> None:
        self.args, self.rank, self.step = args, rank, 0
        torch.manual_seed(args.seed)
        self.rng = np.random.default_rng([args.seed, rank])
        self.vocabulary = Vocabulary.build()
        self.config = model_config(self.vocabulary.tokenizer, args.layers)
        self.statistics = demonstration_statistics(self.config.oft)
        self.model = OFTModel(self.config, attn_implementation="eager")
        initialise(self.model)
        if args.init:
            take_all_but_layers(self.model, args.init)
        self.heads = AuxiliaryHeads(CONFIG["text_config"]["hidden_size"], 4)
        self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
        self.optimizers = optimizers(self.model, self.heads)
        self.batches = Batches(self.config, self.statistics, self.vocabulary.input_ids)
        self.replay = Replay(args.replay)
        self.actors = [Actor(k, n, self.rng, self.vocabulary.numbers) for k, n in SCENES.items()]
        self.middle_layer = round(MIDDLE * args.layers) - 1
        self.run_layers = torch.compile(self._run_layers, dynamic=False) if args.compile else self._run_layers
        self.history: list[list[float]] = []
        self.checkpoint = args.out / "training.pt"
        if args.resume:
            self.load()

    # --- one step --------------------------------------------------------------------------------------------
    def _run_layers(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        middle = hidden
        for index, layer in enumerate(self.model.language_model.layers):
            hidden = layer(hidden, attention_mask=None, position_embeddings=(cos, sin), is_causal=False)
            middle = hidden if index == self.middle_layer else middle
        return middle, hidden

    def losses(self, frames: Frames) -> tuple[Tensor, Tensor]:
        """The action loss (weighted L1) and the auxiliary losses."""
        with torch.autocast("cpu", torch.bfloat16):
            inputs = self.model.embed(*self.batches.inputs(frames))
            cos, sin = self.model.context(inputs.hidden, inputs.positions[:1], None).rotary
            middle, last = self.run_layers(inputs.hidden, cos, sin)
            predicted = self.model.predict(last, inputs.kinds).float()
            batch = {name: torch.from_numpy(column) for name, column in frames.items()}
            read_out = inputs.hidden.shape[1] - 1 - self.config.oft.num_action_tokens - 1
            auxiliary = self.heads(inputs.hidden, middle, last, read_out, batch)
        error = (predicted - self.batches.targets(frames)).abs()
        return (error * STEP_WEIGHTS[:, None] * DIM_WEIGHTS).mean(), auxiliary

    def train_step(self) -> None:
        if self.step % self.args.collect_every == 0:
            self.collect()
        action_loss, auxiliary = self.losses(self.replay.sample(self.args.batch, self.rng))
        (action_loss + auxiliary).backward()
        self.average_gradients()
        for optimizer, base in zip(self.optimizers, (MATRIX_LR, OTHER_LR), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * self.schedule()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.ema.update_parameters(self.model)
        self.history.append([action_loss.item(), auxiliary.item()])
        self.step += 1

    def schedule(self) -> float:
        """Warm-up, constant, linear decay to zero."""
        start, end = self.args.decay_from, self.args.steps
        decay = 1.0 if self.step < start else (end - self.step) / max(1, end - start)
        return max(0.01, min(1.0, (self.step + 1) / 100, decay))

    def average_gradients(self) -> None:
        params = [p for p in [*self.model.parameters(), *self.heads.parameters()] if p.grad is not None]
        flat = torch.cat([p.grad.flatten() for p in params])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for param, gradient in zip(params, flat.split([p.numel() for p in params]), strict=True):
            param.grad.copy_(gradient.view_as(param))
        nn.utils.clip_grad_norm_(params, 1.0)

    def collect(self) -> None:
        share = float(np.clip((self.step - self.args.dagger_from) / 600, 0, 0.65))
        for actor in self.actors:
            actor.policy_share = share
            self.replay.add(actor.advance(self.act if share > 0 else None))

    @torch.inference_mode()
    def act(self, frames: Frames) -> np.ndarray:
        model: OFTModel = self.ema.module
        with torch.autocast("cpu", torch.bfloat16):
            predicted = model(*self.batches.inputs(frames)).actions
        return self.batches.executed(predicted.float())

    # --- the run ---------------------------------------------------------------------------------------------
    def run(self) -> None:
        while self.replay.size < self.args.warm_frames:
            self.collect()
        begin, first, saved = time.monotonic(), self.step, time.monotonic()
        while self.step < self.args.steps:
            self.train_step()
            if self.step % 100 == 0:
                self.log((self.step - first) * self.args.batch * dist.get_world_size() / (time.monotonic() - begin))
            if self.rank == 0 and (time.monotonic() - saved > 60 or self.step == self.args.steps):
                self.save()
                saved = time.monotonic()
        if self.rank == 0:
            folder = self.args.out / "checkpoint"
            behaviour.save(folder, OpenVLAOFT.load(folder), load_suite("tabletop_object"))

    def log(self, rate: float) -> None:
        action, auxiliary = np.mean(self.history, 0)
        self.history = []
        row = {"step": self.step, "action_loss": action, "auxiliary_loss": auxiliary, "samples_per_s": rate}
        row |= {f"success_{actor.kind}": actor.success_rate() for actor in self.actors}
        if self.rank == 0:
            with (self.args.out / "curve.jsonl").open("a") as file:
                known = {name: round(float(value), 4) for name, value in row.items() if np.isfinite(value)}
                file.write(json.dumps(known) + "\n")

    def save(self) -> None:
        state = {"step": self.step, "model": self.model.state_dict(), "heads": self.heads.state_dict()}
        state |= {"ema": self.ema.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers]}
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)
        statistics = {"tabletop": self.statistics}
        folder = self.args.out / "checkpoint"
        write_checkpoint(folder, self.ema.module, self.vocabulary.tokenizer, statistics, step=self.step)

    def load(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.ema.load_state_dict(state["ema"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def model_config(tokenizer: PromptTokenizer, num_layers: int) -> OFTConfig:
    """:data:`CONFIG` with the tokenizer's ids and the depth."""
    text = {"num_hidden_layers": num_layers, "vocab_size": tokenizer.vocab_size, "pad_token_id": tokenizer.pad_id}
    text |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.stop_id}
    merged = {**CONFIG, "pad_token_id": tokenizer.pad_id, "text_config": {**CONFIG["text_config"], **text}}
    return OFTConfig.model_validate(merged)


def worker(rank: int, args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{args.port}", rank=rank, world_size=args.workers)
    Trainer(args, rank).run()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and curve.jsonl")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--init", type=Path, help="checkpoint whose vision towers, embeddings and head to start from")
    parser.add_argument("--decay-from", type=int, default=1700)
    parser.add_argument("--dagger-from", type=int, default=350, help="step from which the policy drives scenes")
    parser.add_argument("--batch", type=int, default=64, help="samples per step and process")
    parser.add_argument("--collect-every", type=int, default=4, help="steps between two looks at every scene")
    parser.add_argument("--warm-frames", type=int, default=12_000)
    parser.add_argument("--replay", type=int, default=40_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--port", type=int, default=29511)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    mp.spawn(worker, (args,), nprocs=args.workers)


if __name__ == "__main__":
    main()
