"""Train a mini RoboFlamingo on recorded demonstrations, from scratch, on a GPU or on a CPU.

    python tools/train_mini/demo_cache.py calvin_d --episodes 300 --model roboflamingo --size 84 --workers 2 \
        --out .scratch/calvin.cache
    python tools/train_mini/train_flamingo.py .scratch/calvin.cache --out .scratch/frames --steps 4000
    python tools/train_mini/train_flamingo.py .scratch/calvin.cache --out .scratch/calvin --steps 1500 --batch 16 \
        --head-only --from .scratch/frames/checkpoint
    dyslctl profile roboflamingo --checkpoint .scratch/calvin/checkpoint --suite calvin_d
    dyslctl eval --method full --episodes 100

First everything learns from single frames: what the head has not seen before it cannot copy, so the action must come
from picture and words. Then the head alone learns from windows of 12 frames of one instruction, as in RoboFlamingo's
training: it begins at zero and says an action at each of them. Three of five windows pass more slowly than they were
recorded, or stand still. Huber on the pose and 0.01 of the cross-entropy of the gripper; images are shifted and
recoloured at random, all of a window alike. One loss more exists for single frames only: where is the hand, which no
input tells, asked of what was seen and of what leaves the layers; and where will it be when the fingers move next? One
of ten episodes is held out, for ``held_out_...`` in the curve. What a step draws derives from seed and step, so
``--resume`` loses nothing; ``--minutes`` stops earlier than after ``--steps``.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_cache import ABOUT, DemoCache
from dyslctl_roboflamingo import RoboFlamingo
from dyslctl_roboflamingo.config import Settings
from dyslctl_roboflamingo.head import POSE
from dyslctl_roboflamingo.images import normalized
from dyslctl_roboflamingo.model import RoboFlamingoModel
from dyslctl_roboflamingo.mpt import attention_bias
from dyslctl_roboflamingo.tokenizer import PromptTokenizer, build_tokenizer
from dyslctl_roboflamingo.writer import write_checkpoint
from learner import Learner, Losses, Measures, add_demo_options, begin_from, launch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from train_demos import augmented

from dyslctl.errors import ArtifactError
from dyslctl.jobs.distributed import rank

PLACE_WEIGHT = 0.2
"""Of the places of the hand."""
SHIFT = 2
"""Pixels. Where the hand is only images tell: shifted more, they tell it less well."""
OPEN_GATE = 1.0
"""Where the gates of the cross-attention begin: nothing is there yet that images could disturb."""
SPEEDS = (1.0, 1.0, 0.5, 0.25, 0.0)
"""How fast a window passes, at random. Shown one speed alone, a model learns to go on as it went, and never starts."""
STILL = 0.05
"""Actions smaller than this move nothing."""
CHECKED = 768
"""Held-out frames, evenly spread, that the curve reports on."""


def _sizes(width: int, depth: int) -> dict[str, Any]:
    return {
        "language_model": {"width": width, "heads": 4},
        "cross_attention": {"heads": 4, "head_width": 32},
        "vision": {"width": width, "layers": depth, "heads": width // 32, "mlp": 4 * width},
        "perceiver": {"latents": 16, "layers": 2, "heads": 4, "head_width": 32},
        "head": {"width": 256, "layers": 2, "mlp": [256, 128]},
    }


SIZES = {"small": _sizes(96, 3), "base": _sizes(160, 6)}
"""For some hours of a CPU, and for some minutes of a GPU; written in bfloat16, 9 and 21 MB with 12 layers."""


def mini_settings(size: str, cache: DemoCache, tokenizer: PromptTokenizer, layers: int) -> Settings:
    """``roboflamingo.yaml`` of a model of ``size`` for what is in ``cache``; its head reads the last block's output."""
    raw: dict[str, Any] = {name: dict(part) for name, part in SIZES[size].items()}
    raw["language_model"] |= {"layers": layers, "vocabulary": tokenizer.vocabulary}
    raw["vision"] |= {"image_size": cache.images.shape[2]}
    about = {"schema": Settings.SCHEMA, "files": {"policy": "none"}, "feature_tap": "after_last_block"}
    return Settings.parse({**about, **raw}, f"--size {size}")


def initialise(model: RoboFlamingoModel) -> None:
    """Residual branches start small, everything else at unit gain; the first actions are zero."""
    depth = 4 * len(model.layers)
    for name, weight in model.layers.named_parameters():
        if name.endswith("_gate"):
            nn.init.constant_(weight, OPEN_GATE)
        elif weight.ndim == 2:
            last = name.endswith(("to_out.weight", "ff.3.weight", "out_proj.weight", "down_proj.weight"))
            nn.init.normal_(weight, std=(0.7 / depth**0.5 if last else 0.7) * weight.shape[1] ** -0.5)
    nn.init.normal_(model.wte.weight, std=0.5)
    for part in (model.head.actions, model.head.gripper):
        nn.init.zeros_(list(part.parameters())[-2])


def begun(cache: DemoCache) -> np.ndarray:
    """``[M, A]``: the actions of ``cache``, where each instruction begins with the first that moves the hand.

    An expert may wait before it begins. A policy that learns to do so where it stands waits for ever.
    """
    actions, first = np.array(cache.actions), 0
    while first < len(actions):
        last = int(cache.last[first])
        moving = np.abs(actions[first : last + 1, :POSE]).max(1) > STILL
        begin = first + int(np.argmax(moving))
        actions[first:begin] = actions[begin]
        first = last + 1
    return actions


class Windows:
    """What a step draws from: ``M`` frames, and the starts of windows of so many that lie within one instruction."""

    def __init__(self, cache: DemoCache, tokenizer: PromptTokenizer, window: int, device: torch.device) -> None:
        if len(cache.frames) != len(cache.actions):
            raise ArtifactError(
                f"expected images of every step, found {len(cache.frames)} of {len(cache.actions)}",
                hint="python tools/train_mini/demo_cache.py ... --stride 1",
            )
        steps = np.arange(len(cache.actions))
        starts = steps[steps + window - 1 <= cache.last]
        self.window, self.device = window, device
        self.learnt, self.held_out = starts[~cache.held_out[starts]], starts[cache.held_out[starts]]
        actions = begun(cache)
        actions[:, POSE:] = actions[:, POSE:] > 0
        self.targets = torch.from_numpy(actions).to(device)
        # The first three numbers of the robot's state are where its hand is.
        place = cache.proprio[:, :3]
        learnt = place[~cache.held_out]
        place = (place - learnt.mean(0)) / (learnt.std(0) + 1e-6)
        self.places = torch.from_numpy(np.concatenate([place, place, place[cache.next_flip()]], 1)).to(device)
        self.ids, self.lengths = tokenizer.encode_batch(cache.texts)
        self.text = torch.from_numpy(cache.instruction)
        # A GPU holds them all; else the operating system keeps in memory what fits.
        self._mapped = cache.images
        self._held = torch.from_numpy(np.array(cache.images)).to(device) if device.type == "cuda" else None

    def steps(self, starts: np.ndarray, speeds: np.ndarray | float = 1.0) -> np.ndarray:
        """``[B, W]``, the steps of windows that begin at ``starts`` ``[B]``; at ``speeds`` below 1 they repeat some."""
        passed = np.multiply.outer(speeds, np.arange(self.window)).astype(np.int64)
        return starts[:, None] + passed

    def images(self, steps: np.ndarray) -> Tensor:
        """``[B, V, W, s, s, 3]`` uint8 of ``steps`` ``[B, W]``."""
        held = self._held
        drawn = torch.from_numpy(self._mapped[steps]) if held is None else held[torch.from_numpy(steps).to(self.device)]
        return drawn.transpose(1, 2)

    def words(self, steps: np.ndarray) -> tuple[Tensor, Tensor]:
        """Ids ``[B * W, T]`` and lengths ``[B * W]``; all rows of all batches have one ``T``."""
        text = self.text[steps.ravel()]
        return self.ids[text].to(self.device), self.lengths[text]


class WindowModel(nn.Module):
    """Features and actions of whole windows; the layers compiled, if they may be."""

    def __init__(self, model: RoboFlamingoModel, *, compile_layers: bool) -> None:
        super().__init__()
        self.model = model
        self._run = torch.compile(self._layers, dynamic=False) if compile_layers else self._layers

    def _layers(self, hidden: Tensor, media: Tensor, bias: Tensor) -> Tensor:
        for layer in self.model.layers:
            hidden = layer(hidden, media, bias)
        return hidden

    def features(self, values: Tensor, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, V, W, 3, s, s]`` in [0, 1] and the words of each frame -> ``[B, W, H]``, and what was seen likewise."""
        batch, _, window = values.shape[:3]
        pixels = normalized(values.transpose(1, 2).flatten(0, 1))
        inputs = self.model.embed(pixels, ids, lengths)
        bias = attention_bias(inputs.positions, inputs.mask, self.model.settings.language_model.heads)
        hidden = self._run(inputs.hidden, inputs.conditioning, bias)
        real = inputs.positions < lengths.to(ids.device)[:, None]
        feature = self.model.feature(hidden, real)
        return feature.view(batch, window, -1), inputs.conditioning.view(batch, window, -1)

    def actions(self, features: Tensor) -> Tensor:
        """``[B, W, H]`` -> ``[B, W, 7]``: the head begins at zero and looks back on all of the window so far."""
        head = self.model.head
        out, _ = head.rnn(features)
        return torch.cat([head.actions(out), head.gripper(out)], -1)


class Trainer:
    """One process's share of the work; all hold the same weights."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, device = args, torch.device(args.device)
        cache = DemoCache.open(args.cache)
        torch.manual_seed(args.seed)
        tokenizer = build_tokenizer(cache.texts)
        settings = mini_settings(args.size, cache, tokenizer, args.layers)
        model = RoboFlamingoModel(settings)
        initialise(model)
        if args.begin:
            begin_from(model, args.begin, RoboFlamingo.load(args.begin).model.state_dict())
        if args.head_only:
            model.requires_grad_(False)
            model.head.requires_grad_(True)
        self.windows = Windows(cache, tokenizer, settings.head.window if args.head_only else 1, device)
        width, seen = settings.language_model.width, cache.images.shape[1] * settings.perceiver.latents
        self.probes = nn.ModuleDict({"seen": nn.Linear(seen * width, 3), "felt": nn.Linear(width, 6)}).to(device)
        blocks = [*model.layers.parameters(), *model.vision.parameters(), *model.perceiver.layers.parameters()]

        def write(folder: Path, average: RoboFlamingoModel, step: int) -> None:
            write_checkpoint(folder, average, tokenizer, torch.bfloat16)

        matrices = [parameter for parameter in blocks if parameter.ndim == 2]
        self.learner = Learner(model.to(device), self.probes, matrices, write, args)
        self.model = WindowModel(self.learner.model, compile_layers=args.compile)

    def losses(self) -> Losses:
        """Of a batch: the action losses, and the auxiliary one if not the head alone learns."""
        rng, head_only = np.random.default_rng([self.args.seed, rank(), self.learner.step]), self.args.head_only
        starts, speeds = (rng.choice(of, self.args.batch) for of in (self.windows.learnt, SPEEDS))
        steps = self.windows.steps(starts, speeds)
        images = self.windows.images(steps)
        values = augmented(images.flatten(0, 2), rng, images.shape[2], SHIFT).unflatten(0, images.shape[:3])
        # On a CPU the fused kernel's way back alone took a quarter of a step.
        with torch.set_grad_enabled(not head_only), self.learner.autocast(), sdpa_kernel(SDPBackend.MATH):
            features, seen = (part.float() for part in self.model.features(values, *self.windows.words(steps)))
        predicted, target = self.model.actions(features), self.windows.targets[steps]
        pose, gripper = predicted[..., :POSE], predicted[..., POSE:]
        distance = F.huber_loss if self.args.loss == "huber" else F.l1_loss
        losses = {
            "pose_loss": distance(pose, target[..., :POSE]),
            "gripper_loss": self.args.gripper_weight * F.binary_cross_entropy(gripper, target[..., POSE:]),
        }
        if head_only:
            return losses
        told = torch.cat([self.probes["seen"](seen), self.probes["felt"](features)], -1)
        return {**losses, "auxiliary_loss": PLACE_WEIGHT * (told - self.windows.places[steps]).abs().mean()}

    @torch.inference_mode()
    def held_out(self) -> Measures:
        """Of the averaged weights on what is held out, as it is: mean pose error, share of right gripper actions."""
        if rank() != 0 or not len(self.windows.held_out):
            return {}
        starts, average = self.windows.held_out, WindowModel(self.learner.average, compile_layers=False)
        checked = min(CHECKED // self.windows.window, len(starts))
        starts = starts[np.linspace(0, len(starts) - 1, checked).astype(int)]
        pose, gripper = list[Tensor](), list[Tensor]()
        for some in np.split(starts, range(self.args.batch, len(starts), self.args.batch)):
            steps = self.windows.steps(some)
            values = self.windows.images(steps).permute(0, 1, 2, 5, 3, 4).float() / 255
            with self.learner.autocast():
                features = average.features(values, *self.windows.words(steps))[0].float()
            predicted, target = average.actions(features), self.windows.targets[steps]
            pose.append((predicted - target)[..., :POSE].abs())
            gripper.append(((predicted[..., POSE:] > 0.5) == (target[..., POSE:] > 0.5)).float().flatten())
        return {
            "held_out_pose": torch.cat(pose).mean().item(),
            "held_out_gripper": torch.cat(gripper).mean().item(),
        }

    def run(self) -> None:
        """Train, and leave a note of the data beside the checkpoint."""
        self.learner.run(self.losses, self.held_out, RoboFlamingo.load)
        if rank() == 0:
            shutil.copy(self.args.cache / ABOUT, self.args.out / "data.json")


def train(args: argparse.Namespace) -> None:
    Trainer(args).run()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_demo_options(parser, SIZES, steps=4000, batch=96)
    parser.add_argument("--loss", choices=["huber", "l1"], default="huber", help="of the pose")
    parser.add_argument("--gripper-weight", type=float, default=0.01)
    parser.add_argument("--head-only", action="store_true", help="learn from windows, and the head alone, after --from")
    args = parser.parse_args(arguments)
    if args.head_only and not args.begin:
        parser.error("--head-only: expected --from CHECKPOINT beside it, of a training on single frames")
    launch(train, args)


if __name__ == "__main__":
    main()
