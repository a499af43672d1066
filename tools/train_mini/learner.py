"""What every training of a mini model shares: optimisers, the course of the learning rate, the files.

Processes that train together hold the same weights and average their gradients. What ships is the exponential average
of the weights, as a plain checkpoint in the published file layout; ``training.pt`` beside it is what a training goes on
from. ``oft.py`` says what an OpenVLA-OFT needs, ``train_flamingo.py`` a RoboFlamingo.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from dyslctl.artifacts.files import append_jsonl, read_jsonl, write_jsonl
from dyslctl.backbone import Backbone
from dyslctl.errors import ArtifactError
from dyslctl.jobs import behaviour
from dyslctl.jobs.distributed import rank, world_size
from dyslctl.jobs.processes import die_with_parent
from dyslctl.plugins import load_suite

MATRIX_LR, OTHER_LR, EMA_DECAY = 0.006, 2e-3, 0.998
WARM_UP, LOG_EVERY = 100, 100
"""Steps."""
SAVE_EVERY = 60.0
"""Seconds."""
Losses = Mapping[str, Tensor]
"""Name in the curve -> scalar; their sum is minimised."""
Measures = Mapping[str, float]
Model = TypeVar("Model", bound=nn.Module)
Write = Callable[[Path, Model, int], None]
"""Writes a checkpoint folder of a model after so many steps."""


def optimizers(model: nn.Module, heads: nn.Module, matrices: Sequence[nn.Parameter]) -> list[torch.optim.Optimizer]:
    """Muon for ``matrices``, those inside transformer blocks, AdamW for the rest."""
    chosen = {id(p) for p in matrices}
    rest = [p for p in [*model.parameters(), *heads.parameters()] if id(p) not in chosen]
    muon = torch.optim.Muon(matrices, lr=MATRIX_LR, weight_decay=0.01, momentum=0.95)
    return [muon, torch.optim.AdamW(rest, lr=OTHER_LR, betas=(0.9, 0.98), weight_decay=0.0)]


@torch.no_grad()
def average(averaged: Sequence[Tensor], current: Sequence[Tensor], count: int) -> None:
    """The exponential average of weights after ``count`` earlier ones, at first of the last tenth of them."""
    decay = min(EMA_DECAY, (1 + int(count)) / (10 + int(count)))
    torch._foreach_lerp_(averaged, current, 1 - decay)


class Learner(Generic[Model]):
    """A model, the heads that exist in training only, and everything that follows from gradients.

    Args:
        model: Trained in place.
        heads: Likewise.
        matrices: Of the model, those inside transformer blocks.
        write: What writes its checkpoint.
        args: The options of :func:`add_options`.
    """

    def __init__(
        self, model: Model, heads: nn.Module, matrices: Sequence[nn.Parameter], write: Write, args: argparse.Namespace
    ) -> None:
        self.model, self.heads, self.args, self._write = model, heads, args, write
        self.device = next(model.parameters()).device
        self.ema = AveragedModel(model, multi_avg_fn=average)
        self.optimizers = optimizers(model, heads, matrices)
        self.step, self.history = 0, list[Losses]()
        self.folder, self.saved, self.curve = (args.out / name for name in ("checkpoint", "training.pt", "curve.jsonl"))
        if args.resume:
            self.load()

    @property
    def average(self) -> Model:
        """The exponential average of the weights: what acts, and what ships."""
        model: Model = self.ema.module
        return model

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of every pass."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def run(
        self, losses: Callable[[], Losses], measure: Callable[[], Measures], load: Callable[[Path], Backbone]
    ) -> None:
        """Train until ``--steps`` are done or ``--minutes`` are over; ``measure`` adds to the curve.

        The checkpoint, as ``load`` reads it, then also holds its answer to a known observation, for ``dyslctl doctor``.
        """
        begin, first, saved = time.monotonic(), self.step, time.monotonic()
        while self.step < self.args.steps and not self._time_is_up(begin):
            self.update(losses())
            if self.step % LOG_EVERY == 0:
                samples = (self.step - first) * self.args.batch * world_size()
                self.log({"samples_per_s": samples / (time.monotonic() - begin), **measure()})
            if time.monotonic() - saved > SAVE_EVERY:
                self.save()
                saved = time.monotonic()
        self.save()
        if rank() == 0:
            behaviour.save(self.folder, load(self.folder), load_suite("tabletop_object"))

    def update(self, losses: Losses) -> None:
        """One step down the sum of ``losses``."""
        torch.stack(list(losses.values())).sum().backward()
        self._average_gradients()
        for optimizer, base in zip(self.optimizers, (MATRIX_LR, OTHER_LR), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * self.rate()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.ema.update_parameters(self.model)
        self.history.append({name: loss.detach() for name, loss in losses.items()})
        self.step += 1

    def rate(self) -> float:
        """Warm-up, constant, linear decay to zero: a factor of the learning rates."""
        start, end = self.args.decay_from, self.args.steps
        decay = 1.0 if self.step < start else (end - self.step) / max(1, end - start)
        return max(0.01, min(1.0, (self.step + 1) / WARM_UP, decay))

    def log(self, measures: Measures) -> None:
        """One row of the curve: the mean losses since the last one, and ``measures``."""
        means = {name: torch.stack([row[name] for row in self.history]).mean().item() for name in self.history[0]}
        self.history = []
        known = {name: round(value, 4) for name, value in {**means, **measures}.items() if math.isfinite(value)}
        if rank() == 0:
            append_jsonl(self.curve, {"step": self.step, **known})

    def save(self) -> None:
        """Write what a resumed training needs, and the checkpoint."""
        if rank() != 0:
            return
        state = {"step": self.step, "model": self.model.state_dict(), "heads": self.heads.state_dict()}
        state |= {"ema": self.ema.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers]}
        temporary = self.saved.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self.saved)
        self._write(self.folder, self.average, self.step)

    def load(self) -> None:
        """Go on from the last save; rows of the curve that came after it are dropped."""
        state = torch.load(self.saved, weights_only=True, map_location=self.device)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.ema.load_state_dict(state["ema"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if rank() == 0:
            write_jsonl(self.curve, [row for row in read_jsonl(self.curve) if row["step"] <= self.step])

    def _average_gradients(self) -> None:
        params = [p for p in [*self.model.parameters(), *self.heads.parameters()] if p.grad is not None]
        if world_size() > 1:
            flat = torch.cat([p.grad.flatten() for p in params])
            dist.all_reduce(flat)
            flat /= world_size()
            for param, gradient in zip(params, flat.split([p.numel() for p in params]), strict=True):
                param.grad.copy_(gradient.view_as(param))
        nn.utils.clip_grad_norm_(params, 1.0)

    def _time_is_up(self, begin: float) -> bool:
        """Whether it is for any of the processes: all stop at the same step."""
        over = torch.tensor(float(time.monotonic() - begin >= 60 * self.args.minutes))
        if world_size() > 1:
            dist.all_reduce(over, dist.ReduceOp.MAX)
        return bool(over)


def add_options(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """The options that every training has; ``defaults`` are the tool's own."""
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and curve.jsonl")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--decay-from", type=int, help="step from which the learning rate falls to zero at --steps")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop, to be resumed, after so long")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64, help="samples per step and process")
    parser.add_argument("--workers", type=int, default=2, help="processes, each with one thread")
    parser.add_argument("--port", type=int, default=29511)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--resume", action="store_true")
    parser.set_defaults(**defaults)


def add_demo_options(parser: argparse.ArgumentParser, sizes: Iterable[str], **defaults: Any) -> None:
    """The options of a training on demonstrations, those of :func:`add_options` too; ``sizes`` of the model."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add_options(parser, workers=2 if device == "cpu" else 1, **defaults)
    parser.add_argument("cache", type=Path, help="folder that demo_cache.py wrote")
    parser.add_argument("--size", choices=list(sizes), default="base", help="of the model")
    parser.add_argument("--from", dest="begin", type=Path, help="checkpoint to begin with the fitting weights of")
    parser.add_argument("--device", default=device)


def begin_from(model: nn.Module, checkpoint: Path, known: Mapping[str, Tensor]) -> None:
    """Copy the weights ``known`` of ``checkpoint`` that fit by name and shape into ``model``; prints what was left.

    Raises:
        ArtifactError: If none fits.
    """
    own = model.state_dict()
    fitting = {name: known[name] for name, weight in own.items() if name in known and known[name].shape == weight.shape}
    if not fitting:
        raise ArtifactError(f"--from {checkpoint}: expected weights of a model like this one, found none that fits")
    model.load_state_dict(fitting, strict=False)
    fresh = [name for name in own if name not in fitting]
    print(f"{checkpoint}: its weights fit, but for {len(fresh)}", *fresh, sep="\n  ")


def launch(train: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Call ``train`` in ``args.workers`` processes that average their gradients."""
    args.decay_from = args.steps * 3 // 5 if args.decay_from is None else args.decay_from
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.resume:
        (args.out / "curve.jsonl").unlink(missing_ok=True)
    command = {name: str(value) for name, value in vars(args).items()}
    (args.out / "command.json").write_text(json.dumps(command, indent=2) + "\n")
    if args.workers == 1:
        train(args)
    else:
        mp.spawn(_member, (train, args), nprocs=args.workers)


def _member(number: int, train: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    die_with_parent()
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{args.port}"
    dist.init_process_group("gloo", init_method=address, rank=number, world_size=args.workers)
    train(args)
    dist.destroy_process_group()
