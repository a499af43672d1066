"""Train the embedded mini OpenVLA-OFT on the table top, from scratch, on a CPU.

    python tools/train_mini/train.py --steps 3000 --out .scratch/mini
    python tools/train_mini/train.py --layers 24 --init .scratch/mini/checkpoint --out .scratch/mini24 ...

The second form grows a trained model: each layer is followed by copies that add nothing at first.
Two single-threaded processes average their gradients (two threads in one process are slower). Each makes its own data
as it goes (``frames.py``). ``--resume`` goes on from the last checkpoint, also with a larger ``--steps``: the learning
rate is constant until ``--decay-from`` and falls linearly to zero at ``--steps``. What is shipped is the exponential
average of the weights, without the auxiliary heads: a plain OpenVLA-OFT in the published file layout.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
from frames import CHUNK, HORIZON, Actor, Frames, Replay
from learner import Losses, add_options, launch
from oft import OFTLearner, initialise, model_config
from torch import Tensor

from dyslctl.jobs.distributed import rank
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
SCENES = {"object": 72, "spatial": 24, "chain": 40}
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


def grow(model: OFTModel, folder: Path) -> None:
    """Give ``model`` the weights of the checkpoint in ``folder`` and the same function, at a multiple of its depth.

    Each trained layer is followed by copies of itself that add nothing yet: what they write to the residual stream is
    multiplied by zero (deeper networks from trained ones: Net2Net, Chen et al. 2016).

    Raises:
        ValueError: If the depth is no multiple.
        RuntimeError: If anything else does not fit.
    """
    trained = load_model(folder, read_checkpoint(folder).config, device="cpu", dtype=torch.float32)
    copies, left = divmod(model.num_layers, trained.num_layers)
    if left:
        raise ValueError(f"--layers {model.num_layers}: expected a multiple of the {trained.num_layers} of {folder}")
    layers, known = "language_model.layers.", trained.state_dict()
    weights = {name: weight for name, weight in known.items() if not name.startswith(layers)}
    for name, weight in known.items():
        if name.startswith(layers):
            number, rest = name.removeprefix(layers).split(".", 1)
            silent = torch.zeros_like(weight) if rest.endswith(("o_proj.weight", "down_proj.weight")) else weight
            for copy in range(copies):
                weights[f"{layers}{int(number) * copies + copy}.{rest}"] = silent if copy else weight
    model.load_state_dict(weights)


class Trainer:
    """One rank's share of the work; both hold the same weights."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        torch.manual_seed(args.seed)
        self.rng = np.random.default_rng([args.seed, rank()])
        self.vocabulary = Vocabulary.build()
        self.config = model_config(CONFIG, self.vocabulary.tokenizer, args.layers)
        self.statistics = demonstration_statistics(self.config.oft)
        self.model = OFTModel(self.config, attn_implementation="eager")
        initialise(self.model)
        if args.init:
            grow(self.model, args.init)
        self.heads = AuxiliaryHeads(CONFIG["text_config"]["hidden_size"], 4)
        statistics = {"tabletop": self.statistics}
        self.learner = OFTLearner(self.model, self.heads, self.vocabulary.tokenizer, statistics, args)
        self.batches = Batches(self.config, self.statistics, self.vocabulary.input_ids)
        self.replay = Replay(args.replay)
        self.actors = [Actor(k, n, self.rng, self.vocabulary.numbers) for k, n in SCENES.items()]

    # --- one step --------------------------------------------------------------------------------------------
    def losses(self) -> Losses:
        """The action loss (weighted L1) and the auxiliary losses, of a batch."""
        if self.learner.step % self.args.collect_every == 0:
            self.collect()
        frames = self.replay.sample(self.args.batch, self.rng)
        with self.learner.autocast():
            inputs = self.model.embed(*self.batches.inputs(frames))
            middle, last = self.learner.layers(inputs)
            predicted = self.model.predict(last, inputs.kinds).float()
            batch = {name: torch.from_numpy(column) for name, column in frames.items()}
            read_out = inputs.hidden.shape[1] - 1 - self.config.oft.num_action_tokens - 1
            auxiliary = self.heads(inputs.hidden, middle, last, read_out, batch)
        error = (predicted - self.batches.targets(frames)).abs()
        action = (error * STEP_WEIGHTS[:, None] * DIM_WEIGHTS).mean()
        return {"action_loss": action, "auxiliary_loss": auxiliary}

    def collect(self) -> None:
        share = float(np.clip((self.learner.step - self.args.dagger_from) / 600, 0, 0.65))
        for actor in self.actors:
            actor.policy_share = share
            self.replay.add(actor.advance(self.act if share > 0 else None))

    @torch.inference_mode()
    def act(self, frames: Frames) -> np.ndarray:
        with self.learner.autocast():
            predicted = self.learner.average(*self.batches.inputs(frames)).actions
        return self.batches.executed(predicted.float())

    # --- the run ---------------------------------------------------------------------------------------------
    def run(self) -> None:
        while self.replay.size < self.args.warm_frames:
            self.collect()
        self.learner.run(self.losses, self.successes, OpenVLAOFT.load)

    def successes(self) -> Mapping[str, float]:
        """Of the episodes that the policy drove since the last call."""
        return {f"success_{actor.kind}": actor.success_rate() for actor in self.actors}


def train(args: argparse.Namespace) -> None:
    Trainer(args).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, steps=3000, decay_from=1700)
    parser.add_argument("--init", type=Path, help="checkpoint to start from; with more --layers it is grown")
    parser.add_argument("--dagger-from", type=int, default=350, help="step from which the policy drives scenes")
    parser.add_argument("--collect-every", type=int, default=4, help="steps between two looks at every scene")
    parser.add_argument("--warm-frames", type=int, default=12_000)
    parser.add_argument("--replay", type=int, default=40_000)
    launch(train, parser.parse_args())


if __name__ == "__main__":
    main()
