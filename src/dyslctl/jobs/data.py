"""Training states: what enters the first layer, with the actions to learn beside it.

The backbone is frozen, so everything before its layers is computed once and kept, if there is room: a sample is
``T * H`` numbers (about 40 kB for the embedded mini model, about 5 MB for OpenVLA-7B in bf16). Where the samples would
need more than ``max_bytes``, their images wait in a file and a batch is encoded when it is drawn. Both ways the same
batches, up to the order of sums.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.data.image_file import ImageFile
from dyslctl.data.source import DemonstrationSource, Sample
from dyslctl.dysl.distillation import full_actions
from dyslctl.dysl.plan_memory import memory_size, remember
from dyslctl.errors import ConfigError
from dyslctl.jobs.dataset import Batch, Dataset, Encode, Samples, Unencoded
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.jobs.training import Precision, autocast
from dyslctl.jobs.trajectories import Trajectory, demonstrate, roll_out
from dyslctl.policy import Policy, full_policy
from dyslctl.suite import Split, TaskSuite
from dyslctl.types import LayerInputs, Observation, joined_history

Source = Literal["expert", "policy"]
"""Who visits the states: the suite's scripted expert, or a policy."""
Label = Literal["expert", "teacher"]
"""Whose actions are learnt: the expert's, where there was one, or the full model's."""

MAX_BYTES = 8 * 2**30
"""Embeddings that are kept in memory, at most."""


@dataclass(frozen=True)
class Frame:
    """One state before it is encoded.

    Attributes:
        chunk: ``[N, A]`` float32 normalised, the actions to learn; ``None`` for the full model's.
        near_flip: The gripper opens or closes around this step.
        remembered: ``[N, A]`` float32 normalised, the chunk that the inference before predicted; ``None`` if this is
            the first one of its instruction.
        history: What the head remembered; ``None``: nothing, or nothing is known.
    """

    observation: Observation
    episode: int
    chunk: np.ndarray | None
    near_flip: bool
    remembered: np.ndarray | None
    history: Tensor | None = None

    def kept_in(self, images: ImageFile) -> Frame:
        """The same frame; its images wait in ``images``."""
        return replace(self, observation=images.keep(self.observation))


def collect(
    backbone: Backbone,
    suite: TaskSuite,
    *,
    episodes: int,
    skip: int = 0,
    split: Split = "train",
    source: Source = "expert",
    policy: Policy | None = None,
    label: Label = "expert",
    batch_size: int = 64,
    processes: int = 1,
    max_bytes: int = MAX_BYTES,
    folder: Path | None = None,
    precision: Precision = "fp32",
    progress: Progress = NO_PROGRESS,
) -> Dataset:
    """The state of every inference of ``episodes`` episodes, labelled, to learn from.

    Args:
        backbone: The frozen model.
        suite: Where the episodes take place.
        episodes: How many initial states of ``split`` to start from.
        skip: Initial states to pass over before the first one.
        split: Which initial states.
        source: Who visits the states.
        policy: The policy that acts if ``source`` is ``"policy"``; ``None`` is the full model.
        label: Whose actions are learnt. Only ``"expert"`` states know the expert's; others get the full model's.
        batch_size: Observations encoded at a time, and environments that run side by side.
        processes: That the environments of a policy are spread over.
        max_bytes: Embeddings that may be kept in memory; samples that would need more are encoded when drawn.
        folder: On whose file system images wait (an unnamed file, gone with them); ``None``: a temporary one.
        precision: Of the encoding.
        progress: Told about episodes, then about frames.

    Raises:
        ConfigError: If there is no frame, or the backbone finds an observation unusable.
        EnvironmentMismatch: If the disk is full.
        PluginError: If the suite has no expert and ``source`` is ``"expert"``.
    """
    frames, images, labelled = list[Frame](), ImageFile.temporary(folder), source == label == "expert"
    visited = visit(
        backbone, suite, episodes=episodes, skip=skip, split=split, source=source, policy=policy, lanes=batch_size,
        processes=processes, progress=progress,
    )  # fmt: skip
    with closing(visited):
        for trajectory in visited:
            frames += [frame.kept_in(images) for frame in _frames(trajectory, backbone, labelled=labelled)]
    return encode(backbone, frames, batch_size, max_bytes, precision, progress)


def sample_states(
    backbone: Backbone,
    suite: TaskSuite,
    *,
    samples: int,
    per_episode: int,
    source: Source = "expert",
    seed: int = 0,
    batch_size: int = 64,
    max_bytes: int = MAX_BYTES,
    progress: Progress = NO_PROGRESS,
) -> Dataset:
    """A few states, for looking at layers: these see no history, so nobody watches the expert.

    Args:
        backbone: The frozen model.
        suite: Where the episodes take place.
        samples: At most that many, half of them from around gripper flips where there are enough.
        per_episode: At most that many of each episode.
        source: Who visits the states; the full model is the policy.
        seed: Of the choice.
        batch_size: Observations encoded at a time, and environments that run side by side.
        max_bytes: Embeddings that may be kept in memory; samples that would need more are encoded when drawn.
        progress: Told about episodes, then about frames.

    Raises:
        ConfigError: If there is no frame, or the backbone finds an observation unusable.
        PluginError: If the suite has no expert and ``source`` is ``"expert"``.
    """
    frames, rng = list[Frame](), np.random.default_rng(seed)
    episodes = math.ceil(2 * samples / per_episode)  # more than needed, so that both strata can be filled
    visited = visit(
        backbone, suite, episodes=episodes, source=source, watched=False, lanes=batch_size, progress=progress
    )
    with closing(visited):
        for trajectory in visited:
            frames += _pick(_frames(trajectory, backbone, labelled=source == "expert"), per_episode, rng)
    return encode(backbone, stratify(frames, samples, rng), batch_size, max_bytes, progress=progress)


def visit(
    backbone: Backbone,
    suite: TaskSuite,
    *,
    episodes: int,
    skip: int = 0,
    split: Split = "train",
    source: Source = "expert",
    policy: Policy | None = None,
    watched: bool = True,
    lanes: int = 64,
    processes: int = 1,
    progress: Progress = NO_PROGRESS,
) -> Generator[Trajectory]:
    """The episodes that begin in ``episodes`` initial states; to be closed, since environments may be open.

    Of the expert what it solved, which may be less: what it does in vain is nothing to learn from.

    Args:
        backbone: The frozen model.
        suite: Where they take place.
        episodes: How many initial states of ``split`` to start from.
        skip: Initial states to pass over before the first one.
        split: Which initial states.
        source: Who acts.
        policy: The policy that acts if ``source`` is ``"policy"``; ``None`` is the full model.
        watched: The full model watches the expert, for what its head remembers.
        lanes: Environments of a policy that run side by side.
        processes: That they are spread over.
        progress: Told about each.

    Raises:
        PluginError: If the suite has no expert and ``source`` is ``"expert"``.
    """
    progress.start(episodes, f"{source} episodes")
    draw = suite.demonstrated_episodes if source == "expert" else suite.episodes
    specs = draw(split, skip + episodes)[skip:]
    trajectories: Generator[Trajectory]
    if source == "expert":
        trajectories = (demonstrate(backbone, suite, spec, follow=watched) for spec in specs)
    else:
        trajectories = roll_out(policy or full_policy(backbone, suite.execute_horizon), suite, specs, lanes, processes)
    with closing(trajectories):
        for trajectory in trajectories:
            shown = trajectory.solved(suite.max_score) if source == "expert" else trajectory
            if len(shown):
                yield shown
            progress.advance()
    progress.close()


def collect_recorded(
    backbone: Backbone,
    source: DemonstrationSource,
    *,
    samples: int,
    per_episode: int,
    seed: int = 0,
    batch_size: int = 64,
    max_bytes: int = MAX_BYTES,
    progress: Progress = NO_PROGRESS,
) -> Dataset:
    """Single frames of recorded episodes, with the recorded actions as labels; nothing is remembered.

    Args:
        backbone: The frozen model.
        source: The episodes; those held out are left alone.
        samples: At most that many, half of them from around gripper flips where there are enough.
        per_episode: At most that many of each episode.
        seed: Of the choice.
        batch_size: Observations encoded at a time.
        max_bytes: Embeddings that may be kept in memory; samples that would need more are encoded when drawn.
        progress: Told about frames.

    Raises:
        ArtifactError: If a row of the recording cannot be used.
        ConfigError: If there is no frame, or the backbone finds an observation unusable.
    """
    spec = backbone.spec
    stream = source.samples(spec.chunk_length, gripper_dim=spec.gripper_dim, per_episode=per_episode, seed=seed)
    # Twice as many as needed, so that both strata can be filled.
    frames = [_recorded_frame(backbone, sample) for sample in islice(stream, 2 * samples)]
    chosen = stratify(frames, samples, np.random.default_rng(seed))
    return encode(backbone, chosen, batch_size, max_bytes, progress=progress)


def _recorded_frame(backbone: Backbone, sample: Sample) -> Frame:
    chunk = backbone.normalize(sample.actions).astype(np.float32)
    return Frame(sample.observation, sample.episode, chunk, sample.near_flip, None)


def _frames(trajectory: Trajectory, backbone: Backbone, *, labelled: bool) -> list[Frame]:
    near = trajectory.near_flip(backbone.spec.gripper_dim, backbone.spec.chunk_length)
    chunks = trajectory.chunks if labelled else [None] * len(trajectory)
    pasts = (trajectory.remembered(), trajectory.head_histories())
    rows = zip(trajectory.observations, chunks, near.tolist(), *pasts, strict=True)
    return [Frame(observation, trajectory.spec.index, *row) for observation, *row in rows]


def _pick(frames: Sequence[Frame], count: int, rng: np.random.Generator) -> list[Frame]:
    """``count`` frames at random, in their order; all if there are fewer."""
    return [frames[i] for i in np.sort(rng.permutation(len(frames))[:count])]


def stratify(frames: Sequence[Frame], count: int, rng: np.random.Generator) -> list[Frame]:
    """``count`` frames, half of them near a gripper flip; what one half lacks the other one fills."""
    near = [frame for frame in frames if frame.near_flip]
    free = [frame for frame in frames if not frame.near_flip]
    count = min(count, len(frames))
    from_near = min(len(near), max(count // 2, count - len(free)))
    return _pick(near, from_near, rng) + _pick(free, count - from_near, rng)


def encode(
    backbone: Backbone,
    frames: Sequence[Frame],
    batch_size: int = 64,
    max_bytes: int = MAX_BYTES,
    precision: Precision = "fp32",
    progress: Progress = NO_PROGRESS,
) -> Dataset:
    """Encode ``frames``, and label those without a chunk with what the full model predicts.

    A head with memory predicts each with the history of its frame; without one as if it began an episode.

    Raises:
        ConfigError: If there is no frame.
    """
    if not frames:
        raise ConfigError("expected at least one frame to learn from, found none", hint="raise the number of episodes")
    parts, fits, encoding = list[Samples](), True, encoder(backbone, precision)
    progress.start(len(frames), "encoding")
    for first in range(0, len(frames), batch_size):
        chosen = frames[first : first + batch_size]
        part = _encode_batch(backbone, chosen, encoding)
        fits = fits if parts else part.nbytes // len(part) * len(frames) <= max_bytes
        parts += part.without_padding() if fits else _without_inputs(part, chosen, encoding)
        progress.advance(len(part))
    progress.close()
    return Dataset.of(parts)


def encoder(backbone: Backbone, precision: Precision = "fp32") -> Encode:
    """What encodes observations for ``backbone``, whatever the precision around it."""
    return partial(_encode, backbone, precision)


@torch.no_grad()
def _encode(backbone: Backbone, precision: Precision, observations: Sequence[Observation]) -> LayerInputs:
    with autocast(precision, backbone.device):
        return backbone.encode(observations)


@torch.no_grad()
def _encode_batch(backbone: Backbone, frames: Sequence[Frame], encoding: Encode) -> Batch:
    histories = [(1, None if frame.history is None else frame.history[None]) for frame in frames]
    inputs = encoding([frame.observation for frame in frames])
    history = joined_history(histories)
    inputs = replace(inputs, history=None if history is None else history.to(inputs.hidden.device))
    episodes = torch.tensor([frame.episode for frame in frames])
    size = memory_size(backbone.spec.chunk_length, backbone.spec.action_dim)
    memory = torch.from_numpy(np.stack([remember(frame.remembered, size) for frame in frames]))
    return Batch(inputs, _targets(backbone, inputs, frames), episodes, memory).to(torch.device("cpu"))


def _without_inputs(part: Batch, frames: Sequence[Frame], encoding: Encode) -> list[Samples]:
    """The samples of ``part``, to be encoded again when they are drawn."""
    return [
        Unencoded(
            [frames[row].observation for row in index.tolist()],
            encoding,
            length,
            part.target[index],
            part.episodes[index],
            part.memory[index],
            None if part.inputs.history is None else part.inputs.history[index],
        )
        for length, index in part.lengths().items()
    ]


def _targets(backbone: Backbone, inputs: LayerInputs, frames: Sequence[Frame]) -> Tensor:
    """``[B, N, A]``: each frame's own chunk, or what the full model predicts for it; that costs a pass."""
    blank = np.zeros((backbone.spec.chunk_length, backbone.spec.action_dim), np.float32)
    target = torch.from_numpy(np.stack([blank if frame.chunk is None else frame.chunk for frame in frames]))
    missing = torch.tensor([frame.chunk is None for frame in frames])
    if bool(missing.any()):
        target[missing] = full_actions(backbone, inputs).float().cpu()[missing]
    return target
