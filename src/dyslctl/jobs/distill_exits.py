"""``distill``: exits and their planner. Backbone and head stay frozen.

Stage 1 trains the adapters on round 0 of the states. Stage 2 collects further rounds with them, each time training them
on all states so far, and ends with the planner.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dyslctl.artifacts.bundle import weights_digest
from dyslctl.artifacts.files import make_folder, sha256
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.backbone import Backbone, require_attention
from dyslctl.baselines.deer import INTERVAL, differences
from dyslctl.baselines.random_skip import RandomExits
from dyslctl.baselines.static_exit import EpisodeExit
from dyslctl.dysl.exit_schedule import ExitLadder, ExitSchedule
from dyslctl.dysl.exit_training import exit_actions, exit_losses, measure_scales
from dyslctl.dysl.exits import ExitModules, ExitSizes, default_exits
from dyslctl.dysl.partition import tail
from dyslctl.dysl.skip_modules import PUBLISHED_WIDTH
from dyslctl.errors import ConfigError
from dyslctl.jobs import distributed
from dyslctl.jobs.dataset import Dataset, Part
from dyslctl.jobs.exit_data import Rounds
from dyslctl.jobs.exit_samples import ExitSamples, planner_samples
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.jobs.stage_result import CHECKPOINT, DistillResult, Stage, save_curve, training_info
from dyslctl.jobs.trained_deer import save_deer
from dyslctl.jobs.trained_exits import load_exits, new_exits, save_exits
from dyslctl.jobs.trained_modules import partition_of
from dyslctl.jobs.training import Decay, Optimization, StepLoss, Trainee, autocast, require_float32, train

ExitMethod = Literal["dysl", "static", "deer"]
"""What exits are for."""
PLANNER_CHECKPOINT = "planner.safetensors"
SCALE_SAMPLES = 128
PLANNER_STEPS = 7.5
"""Of the planner, for each step of the adapters: it is small, and what it has to say pays for long learning."""
PLANNER = 1
"""Sets the draw of the planner's samples apart from those of the adapters."""


@dataclass(frozen=True, kw_only=True)
class ExitTraining(Optimization):
    """Everything that decides what a stage learns.

    No gradient goes through a decoder layer (``dysl/exit_training.py``): there is nothing to checkpoint.

    Attributes:
        stage: 1 = adapters on the full model's states, 2 = adapters on all rounds, and the planner.
        rounds: How often stage 2 collects states with the adapters as they are; ``steps`` follow each time.
        exits: Layers to leave before; ``None``: see :func:`default_exits`.
        adapter_width, planner_width: ``None``: see :class:`ExitSizes`.
        remembers: Tell exits and planner the last chunk.
        token_subsets: Show them every sample on a subset of its visual tokens too, for ``dysl+specprune``: see
            :class:`~dyslctl.jobs.exit_samples.ExitSamples`.
        batch_size: Samples of a step.
        adapter_lr: Learning rate of the adapters.
        explore: Probability of leaving at each exit while a round is collected.
        planner_steps: Steps of the planner; ``None``: :data:`PLANNER_STEPS` times ``steps``.
        planner_batch, planner_lr: The rest of its optimisation.
        cache_gb: States before the exits are kept if they need no more memory than this, GiB; else they are computed
            anew for each batch.
        seed: Of initial weights and sample order.
    """

    warmup: int = 50
    decay: Decay = "linear"
    weight_decay: float = 0.0
    beta_2: float = 0.98
    stage: Literal[1, 2]
    exits: tuple[int, ...] | None = None
    adapter_width: int | None = None
    planner_width: int | None = None
    remembers: bool = True
    token_subsets: bool = False
    batch_size: int = 32
    adapter_lr: float = 3e-4
    rounds: int = 3
    explore: float = 0.4
    planner_steps: int | None = None
    planner_batch: int = 256
    planner_lr: float = 2e-3
    cache_gb: float = 3.0
    seed: int = 0

    @classmethod
    def default(cls, stage: Stage, hidden_size: int) -> ExitTraining:
        """Settings for a model of the published sizes, or for one far below them."""
        if hidden_size >= PUBLISHED_WIDTH:
            return cls(stage=stage, steps=4000 if stage == 1 else 10_000)
        steps = 400 if stage == 1 else 800
        return cls(stage=stage, steps=steps, batch_size=128, adapter_lr=3e-3)

    def planner(self) -> Optimization:
        """How the planner learns."""
        return Optimization(
            steps=self.planner_steps or int(PLANNER_STEPS * self.steps),
            decay=self.decay,
            weight_decay=1e-3,
            clip=self.clip,
            precision="fp32",
            checkpoint_every=self.checkpoint_every,
            log=self.log,
        )


@dataclass(frozen=True)
class _Work:
    """What the steps of one stage share."""

    backbone: Backbone
    method: ExitMethod
    settings: ExitTraining
    executed: int
    out: Path
    resume: bool
    progress: Progress


def distill_exits(
    backbone: Backbone,
    profile: SkipProfile,
    rounds: Rounds,
    settings: ExitTraining,
    *,
    out: Path,
    bundle: Path,
    method: ExitMethod = "dysl",
    init: Path | None = None,
    resume: bool = False,
    command: str = "dyslctl distill",
    progress: Progress = NO_PROGRESS,
) -> DistillResult:
    """Train one stage and write its bundle, not calibrated yet.

    Args:
        backbone: The frozen model.
        profile: Its prefix of static layers runs before anything is decided.
        rounds: Where the states come from.
        settings: How.
        out: Folder of the checkpoints and the loss curve.
        bundle: Folder of the bundle to write.
        method: What the exits are for. Those of ``static`` and ``deer`` visit states through one exit for a whole
            episode, and the planner of ``deer`` stays as it is: nobody asks it.
        init: Bundle of stage 1, which stage 2 starts from.
        resume: Continue from the checkpoints in ``out``, to the same weights as a training without a break.
        command: What the user typed, for the artifact.
        progress: Told about each step.

    Raises:
        ArtifactError: If ``profile`` or ``init`` belongs to other weights, or a checkpoint is damaged.
        ConfigError: If stage 2 has nothing to start from, training diverges, a checkpoint has other settings, or there
            can be no token subsets.
        EnvironmentMismatch: If a file cannot be written.
    """
    begin = time.perf_counter()
    profile.check_backbone(backbone.spec)
    _check(backbone, settings, method)
    distributed.wait()  # for the leader's bundle of stage 1
    work = _Work(backbone, method, settings, rounds.execute_horizon, make_folder(out), resume, progress)
    modules = _start(backbone, profile, settings, method, init)
    identity = _identity(work, profile, init)
    by_stage = _train_first if settings.stage == 1 else _train_in_rounds
    samples, curve = by_stage(work, modules, rounds, identity)
    differ = _differences(work, modules, rounds) if settings.stage == 2 and method == "deer" else None
    if settings.stage == 2 and method != "deer":
        _train_planner(work, modules, samples, identity)
    if distributed.leads():
        save_curve(out, curve)
        training = training_info(settings, method, len(samples), curve, token_subsets=settings.token_subsets)
        save = save_exits if differ is None else partial(save_deer, deltas=differ)
        save(bundle, modules.eval(), rounds.execute_horizon, profile, training, command)
    learnt = modules.adapters if settings.stage == 1 or method == "deer" else modules
    return DistillResult.of(settings, curve, [learnt], bundle, begin)


def _check(backbone: Backbone, settings: ExitTraining, method: ExitMethod) -> None:
    """Before anything is computed: can it be learnt, and shared among the processes?"""
    if settings.token_subsets:
        _require_subsets(backbone, method)
    require_float32(backbone, settings)
    settings.require_equal_parts(settings.batch_size)
    settings.planner().require_equal_parts(settings.planner_batch, "planner_batch")


def _start(
    backbone: Backbone, profile: SkipProfile, settings: ExitTraining, method: ExitMethod, init: Path | None
) -> ExitModules:
    """Stage 1 begins with plain exits, stage 2 with the adapters of stage 1."""
    if settings.stage == 2:
        return load_exits(_required(init, method), profile, backbone).modules.float()
    sizes = ExitSizes.of(backbone.spec, settings.adapter_width, settings.planner_width, remembers=settings.remembers)
    partition = tail(partition_of(profile))
    exits = settings.exits or (partition.dynamic_layers[::INTERVAL] if method == "deer" else default_exits(partition))
    return new_exits(profile, exits, sizes, settings.seed).to(backbone.device)


def _require_subsets(backbone: Backbone, method: ExitMethod) -> None:
    """Are there tokens to prune, does a layer say which, and does anything run these exits on what is left?"""
    found = "" if method == "dysl" else f"the exits of '{method}', which run on every token"
    if not backbone.spec.visual_tokens:
        found = f"{type(backbone).__name__}, whose layers see no visual tokens: there is nothing to prune"
    if found:
        raise ConfigError(
            f"distill.token_subsets: expected exits that dysl+specprune can use, those of 'dysl' on a backbone whose "
            f"layers read visual tokens; found {found}",
            hint="leave distill.token_subsets out",
        )
    require_attention(backbone)


def _required(init: Path | None, method: ExitMethod) -> Path:
    if init is None or not init.exists():
        raise ConfigError(
            f"stage 2 starts from the exits of stage 1, but there is no bundle at {init}",
            hint=f"dyslctl distill --stage 1 --method {method} comes first",
        )
    return init


def _samples(work: _Work, modules: ExitModules, data: Dataset) -> ExitSamples:
    settings = work.settings
    return ExitSamples(
        work.backbone,
        data,
        modules.exits,
        int(settings.cache_gb * 2**30),
        remembers=modules.sizes.remembers,
        subset_seed=settings.seed if settings.token_subsets else None,
        precision=settings.precision,
        progress=work.progress,
    )


def _train_first(
    work: _Work, modules: ExitModules, rounds: Rounds, identity: Mapping[str, Any]
) -> tuple[ExitSamples, list[dict[str, float]]]:
    """The adapters on round 0, once their scales are measured there."""
    samples = _samples(work, modules, rounds.explored)
    batch = rounds.explored.batch(work.settings.seed, 0, SCALE_SAMPLES).to(work.backbone.device)
    measure_scales(work.backbone, modules, batch.inputs)
    return samples, _train_adapters(work, modules.train(), samples, identity, work.out / CHECKPOINT)


def _train_in_rounds(
    work: _Work, modules: ExitModules, rounds: Rounds, identity: Mapping[str, Any]
) -> tuple[ExitSamples, list[dict[str, float]]]:
    """Each round adds the states that the adapters' mistakes lead to; the optimiser begins anew with each."""
    settings, curve = work.settings, list[dict[str, float]]()
    samples = _samples(work, modules, rounds.explored)
    for number in range(1, settings.rounds + 1):
        samples = samples.plus(rounds.on_policy(number, _visitor(work, modules, number)))
        found = _train_adapters(
            work, modules.train(), samples, {**identity, "round": number}, _checkpoint(work.out, number)
        )
        curve += [{**entry, "step": entry["step"] + (number - 1) * settings.steps} for entry in found]
    return samples, curve


def _differences(work: _Work, modules: ExitModules, rounds: Rounds) -> Tensor:
    """How far each exit's action is from that of the exit before, on a round not learnt from: ``[n, E - 1]``.

    On recorded episodes that round is another pass over the same recordings, begun at other steps.
    """
    acting = copy.deepcopy(modules).eval().to(work.backbone.dtype)
    held_out = rounds.on_policy(work.settings.rounds + 1, EpisodeExit(ExitLadder(acting), seed=work.settings.seed))
    gripper, found = work.backbone.spec.gripper_dim, list[Tensor]()
    with torch.no_grad(), autocast(work.settings.precision, work.backbone.device):
        for views, _ in _samples(work, modules, held_out).batches():
            found.append(differences(exit_actions(work.backbone, modules, views), work.executed, gripper).T.cpu())
    return torch.cat(found)


def _visitor(work: _Work, modules: ExitModules, number: int) -> ExitSchedule:
    """How round ``number`` is visited, with the adapters as they are."""
    ladder = ExitLadder(copy.deepcopy(modules).eval().to(work.backbone.dtype))
    settings, seed = work.settings, work.settings.seed + number
    if work.method == "dysl":
        return RandomExits(ladder, settings.explore, seed=seed)
    return EpisodeExit(ladder, seed=seed)


def _checkpoint(out: Path, number: int) -> Path:
    return out / f"round{number}-{CHECKPOINT}"


def _train_adapters(
    work: _Work, modules: ExitModules, samples: ExitSamples, identity: Mapping[str, Any], checkpoint: Path
) -> list[dict[str, float]]:
    """All exits in one step, from one frozen pass."""
    settings = work.settings
    rates = [(modules.adapters, settings.adapter_lr)]
    trainee = Trainee(modules, rates, {**identity, "data": samples.digest()})
    loss = _adapter_loss(work, modules, samples)
    return train(trainee, settings, loss, work.backbone.device, checkpoint, resume=work.resume, progress=work.progress)


def _adapter_loss(work: _Work, modules: ExitModules, samples: ExitSamples) -> StepLoss:
    settings = work.settings

    def loss(step: int, part: Part) -> tuple[Tensor, Mapping[str, float]]:
        views, full = samples.batch(settings.seed, step, settings.batch_size, part)
        losses = exit_losses(exit_actions(work.backbone, modules, views), full, work.executed)
        return losses.sum(), dict(zip((f"exit_{e}" for e in modules.exits), losses.tolist(), strict=True))

    return loss


def _train_planner(work: _Work, modules: ExitModules, samples: ExitSamples, identity: Mapping[str, Any]) -> None:
    """Regress ``log(d + floor)`` of every exit. The output's bias begins at the mean: the rest is learnt."""
    settings, planner = work.settings, modules.planner
    with autocast(settings.precision, work.backbone.device):
        features, damages = planner_samples(work.backbone, modules, samples, work.executed)
    with torch.no_grad():
        planner.out.bias.copy_(damages.mean(0))

    def loss(step: int, part: Part) -> tuple[Tensor, Mapping[str, float]]:
        draw = np.random.default_rng((settings.seed, step, PLANNER))
        drawn = torch.from_numpy(draw.integers(len(features), size=settings.planner_batch))
        rows = part.of(drawn)
        seen, done = features[rows].to(work.backbone.device), damages[rows].to(work.backbone.device)
        return F.huber_loss(planner(seen), done), {}

    how, checkpoint = settings.planner(), work.out / PLANNER_CHECKPOINT
    learnt = {"adapters": sha256(_checkpoint(work.out, settings.rounds)), "data": samples.digest()}
    trainee = Trainee(planner, [(planner, settings.planner_lr)], {**identity, **learnt})
    train(trainee, how, loss, work.backbone.device, checkpoint, resume=work.resume, progress=work.progress)


def _identity(work: _Work, profile: SkipProfile, init: Path | None) -> dict[str, Any]:
    """What must not change between an interruption and its resume."""
    settings = work.settings
    identity = {**settings.identity(), "profile": profile.hash, "execute_horizon": work.executed}
    if settings.stage == 2 and init is not None and init.exists():
        identity["stage1"] = weights_digest(init)
    return identity
