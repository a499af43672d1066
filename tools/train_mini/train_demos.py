"""Train a mini OpenVLA-OFT on recorded demonstrations, from scratch, on a GPU or on a CPU.

    dyslctl demos libero_object --episodes 500 --disturb 0.15 --out demos/libero_object --workers 2
    python tools/train_mini/demo_cache.py demos/libero_object --out .scratch/object.cache --workers 2
    python tools/train_mini/train_demos.py .scratch/object.cache --out .scratch/libero --steps 4000 --batch 256
    dyslctl profile openvla-oft --checkpoint .scratch/libero/checkpoint --suite libero_object
    dyslctl eval --method full --episodes 200

L1 on normalised chunks, as OpenVLA-OFT is trained; images are shifted and recoloured at random. One loss more exists in
training only: where will the hand be when the fingers move next? One of ten episodes is held out, for ``held_out_loss``
in the curve. What a step draws derives from seed and step, so ``--resume`` loses nothing; ``--minutes`` stops earlier
than after ``--steps``. On a GPU the whole cache lies in its memory.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from auxiliary import DestinationHeads
from demo_cache import ABOUT, DemoCache
from dyslctl_openvla_oft import OpenVLAOFT
from dyslctl_openvla_oft.actions import normalize, statistics_of
from dyslctl_openvla_oft.config import OFTConfig
from dyslctl_openvla_oft.modeling import OFTModel
from dyslctl_openvla_oft.processing import PreprocessorConfig, tower_inputs
from dyslctl_openvla_oft.statistics import DatasetStatistics
from dyslctl_openvla_oft.tokenizer import PromptTokenizer, build_tokenizer
from learner import Losses, Measures, add_demo_options, begin_from, launch
from oft import OFTLearner, initialise, model_config
from torch import Tensor

from dyslctl.jobs.distributed import rank

CHUNK, PATCH = 8, 14
SHIFT = 6
"""Largest random shift of an image, pixels: less than half a patch."""
COLOUR = 0.2
"""Largest random change of brightness, contrast and saturation."""
CHECKED = 512
"""Held-out frames, evenly spread, that the curve reports on."""


def _sizes(hidden: int, mlp: int, width: int, depth: int) -> dict[str, Any]:
    tower = {"width": width, "depth": depth, "heads": width // 32, "mlp": 4 * width}
    return {
        "text_config": {
            "hidden_size": hidden,
            "intermediate_size": mlp,
            "num_attention_heads": hidden // 32,
            "num_key_value_heads": hidden // 32,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 512,
            "tie_word_embeddings": False,
        },
        "vision_config": {"dino": {**tower, "registers": 1}, "siglip": tower},
    }


SIZES = {"small": _sizes(128, 256, 96, 3), "base": _sizes(256, 640, 192, 6)}
"""For some hours of a CPU, and for some minutes of a GPU."""


def demo_config(size: str, cache: DemoCache, tokenizer: PromptTokenizer, layers: int) -> OFTConfig:
    """``config.json`` of a model of ``size`` for what is in ``cache``."""
    _, views, side, _, _ = cache.images.shape
    shape = {"action_dim": cache.actions.shape[1], "proprio_dim": cache.proprio.shape[1], "num_images": views}
    oft = {"chunk_length": CHUNK, **shape, "center_crop": False, "jpeg": False}
    return model_config({**SIZES[size], "image_sizes": [side, side], "oft": oft}, tokenizer, layers)


def demo_statistics(cache: DemoCache, config: OFTConfig) -> DatasetStatistics:
    """Ranges over the steps to learn from."""
    learnt = ~cache.held_out
    return statistics_of(cache.actions[learnt], cache.proprio[learnt], cache.episodes, config.oft)


def augmented(images: Tensor, rng: np.random.Generator, alike: int = 1, shift: int = SHIFT) -> Tensor:
    """``[B, s, s, 3]`` uint8 -> ``[B, 3, s, s]`` in [0, 1], each recoloured and shifted by up to ``shift`` pixels.

    What comes in from beyond the border repeats it. ``alike`` images in a row are shifted and recoloured alike.
    """
    batch, side = images.shape[:2]
    place, draws = torch.arange(side), batch // alike
    shifts = (torch.from_numpy(rng.integers(-shift, shift + 1, (draws, 1)).repeat(alike, 0)) for _ in range(2))
    rows, columns = ((place + by).clamp(0, side - 1).to(images.device) for by in shifts)
    each = torch.arange(batch, device=images.device)[:, None, None]
    values = images[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).float() / 255
    bright, contrast, saturation = torch.from_numpy(
        rng.uniform(1 - COLOUR, 1 + COLOUR, (3, draws, 1, 1, 1)).repeat(alike, 1)
    ).to(values)
    values = values * bright
    grey = values.mean(1, keepdim=True)
    values = grey + saturation * (values - grey)
    level = grey.mean((2, 3), keepdim=True)
    return (level + contrast * (values - level)).clamp(0, 1)


class Samples:
    """What a step draws from, normalised, on the device: ``F`` frames and what belongs to each."""

    def __init__(
        self,
        cache: DemoCache,
        config: OFTConfig,
        statistics: DatasetStatistics,
        tokenizer: PromptTokenizer,
        device: torch.device,
    ) -> None:
        steps = cache.frames
        proprio = statistics.proprio.normalize(cache.proprio)
        self.device, self.config = device, config
        self.learnt, self.held_out = np.flatnonzero(~cache.held_out[steps]), np.flatnonzero(cache.held_out[steps])
        self.proprio = torch.from_numpy(proprio[steps]).to(device)
        # The first three numbers of the robot's state are where its hand is.
        self.destination = torch.from_numpy(proprio[cache.next_flip()[steps], :3]).to(device)
        chunks = normalize(cache.chunks(steps, CHUNK), statistics.action, config.oft)
        self.targets = torch.from_numpy(chunks).to(device)
        self.ids, self.lengths = tokenizer.encode_batch(cache.texts)
        self.text = torch.from_numpy(cache.instruction[steps])
        # A GPU holds them all; else the operating system keeps in memory what fits.
        self._mapped = cache.images
        self._held = torch.from_numpy(np.array(cache.images)).to(device) if device.type == "cuda" else None

    def images(self, index: np.ndarray) -> Tensor:
        """``[B * V, s, s, 3]`` uint8."""
        held = self._held
        drawn = torch.from_numpy(self._mapped[index]) if held is None else held[torch.from_numpy(index).to(self.device)]
        return drawn.flatten(0, 1)

    def inputs(self, index: np.ndarray, values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Arguments of :meth:`OFTModel.embed`; ``values`` are the images, ``[B * V, 3, s, s]`` in [0, 1]."""
        pixels = tower_inputs(values, PreprocessorConfig.of(self.config))
        text = self.text[index]
        pixels = pixels.reshape(len(index), -1, *pixels.shape[2:])
        return pixels, self.proprio[index], self.ids[text].to(self.device), self.lengths[text]


class Trainer:
    """One process's share of the work; all hold the same weights."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, device = args, torch.device(args.device)
        cache = DemoCache.open(args.cache)
        torch.manual_seed(args.seed)
        tokenizer = build_tokenizer(cache.texts)
        config = demo_config(args.size, cache, tokenizer, args.layers)
        statistics = demo_statistics(cache, config)
        self.model = OFTModel(config, attn_implementation="eager" if device.type == "cpu" else "sdpa")
        initialise(self.model)
        if args.begin:
            begin_from(self.model, args.begin, OpenVLAOFT.load(args.begin).model.state_dict())
        self.heads = DestinationHeads(self.model.hidden_size, config.num_patches).to(device)
        named = {args.name: statistics}
        self.learner = OFTLearner(self.model.to(device), self.heads, tokenizer, named, args)
        self.samples = Samples(cache, config, statistics, tokenizer, device)

    def losses(self) -> Losses:
        """The action loss (L1) and the auxiliary loss, of a batch."""
        rng = np.random.default_rng([self.args.seed, rank(), self.learner.step])
        samples, index = self.samples, rng.choice(self.samples.learnt, self.args.batch)
        values = augmented(samples.images(index), rng)
        with self.learner.autocast():
            inputs = self.model.embed(*samples.inputs(index, values))
            middle, last = self.learner.layers(inputs)
            predicted = self.model.predict(last, inputs.kinds).float()
            read_outs = tuple(self.model.read_out(hidden, inputs.kinds)[:, 0] for hidden in (middle, last))
            here, destination = samples.proprio[index, :3], samples.destination[index]
            auxiliary = self.heads(middle, read_outs, here, destination)
        return {"action_loss": (predicted - samples.targets[index]).abs().mean(), "auxiliary_loss": auxiliary}

    @torch.inference_mode()
    def held_out(self) -> Measures:
        """The action loss of the averaged weights on held-out frames, as they are."""
        if rank() != 0:
            return {}
        frames, loss = self.samples.held_out, 0.0
        frames = frames[np.linspace(0, len(frames) - 1, min(CHECKED, len(frames))).astype(int)]
        for index in np.split(frames, range(self.args.batch, len(frames), self.args.batch)):
            values = self.samples.images(index).permute(0, 3, 1, 2).float() / 255
            with self.learner.autocast():
                predicted = self.learner.average(*self.samples.inputs(index, values)).actions.float()
            loss += (predicted - self.samples.targets[index]).abs().mean((1, 2)).sum().item()
        return {"held_out_loss": loss / len(frames)}

    def run(self) -> None:
        """Train, and leave a note of the data beside the checkpoint."""
        self.learner.run(self.losses, self.held_out, OpenVLAOFT.load)
        if rank() == 0:
            shutil.copy(self.args.cache / ABOUT, self.args.out / "data.json")


def train(args: argparse.Namespace) -> None:
    Trainer(args).run()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_demo_options(parser, SIZES, steps=3000)
    parser.add_argument("--name", default="demonstrations", help="key in dataset_statistics.json")
    launch(train, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
