"""Training states: what enters the first layer, encoded once, with the actions to learn beside it.

The backbone is frozen, so everything before its layers is computed once and kept. The price is memory: a sample is
``T * H`` numbers (about 40 kB for the embedded mini model, about 5 MB for OpenVLA-7B in bf16), all of it in the main
memory of the machine; :func:`collect` refuses what would not fit into ``max_bytes``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.data.source import DemonstrationSource, Sample
from dyslctl.dysl.distillation import full_actions
from dyslctl.dysl.plan_memory import memory_size, remember
from dyslctl.errors import ConfigError
from dyslctl.jobs.dataset import Batch, Dataset
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.jobs.trajectories import Trajectory, demonstrate, roll_out
from dyslctl.policy import Policy, full_policy
from dyslctl.suite import EpisodeSpec, Split, TaskSuite
from dyslctl.types import LayerInputs, Observation

Source = Literal["expert", "policy"]
"""Who visits the states: the suite's scripted expert, or a policy."""
Label = Literal["expert", "teacher"]
"""Whose actions are learnt: the expert's, where there was one, or the full model's."""

MAX_BYTES = 8 * 2**30


@dataclass(frozen=True)
class Frame:
    """One state before it is encoded.

    Attributes:
        chunk: ``[N, A]`` float32 normalised, the actions to learn; ``None`` for the full model's.
        near_flip: The gripper opens or closes around this step.
        remembered: ``[N, A]`` float32 normalised, the chunk that the inference before predicted; ``None`` if this is
            the first one of its instruction.
    """

    observation: Observation
    episode: int
    chunk: np.ndarray | None
    near_flip: bool
    remembered: np.ndarray | None


def collect(
    backbone: Backbone,
    suite: TaskSuite,
    *,
    episodes: int,
    skip: int = 0,
    split: Split = "train",
    seed: int = 0,
    source: Source = "expert",
    policy: Policy | None = None,
    label: Label = "expert",
    frames_per_episode: int | None = None,
    samples: int | None = None,
    batch_size: int = 64,
    max_bytes: int = MAX_BYTES,
    progress: Progress = NO_PROGRESS,
) -> Dataset:
    """States from ``episodes`` episodes, encoded and labelled.

    Args:
        backbone: The frozen model.
        suite: Where the episodes take place.
        episodes: How many initial states of ``split`` to start from.
        skip: Initial states to pass over before the first one.
        split: Which initial states.
        seed: Of the choice among the frames.
        source: Who visits the states.
        policy: The policy that acts if ``source`` is ``"policy"``; ``None`` is the full model.
        label: Whose actions are learnt. Only ``"expert"`` states know the expert's; others get the full model's.
        frames_per_episode: At most that many frames of each episode; ``None`` takes one at every inference.
        samples: At most that many in all, half of them from around gripper flips where there are enough.
        batch_size: Observations encoded at a time, and environments that run side by side.
        max_bytes: Refuse to keep more embeddings than this in memory.
        progress: Told about episodes, then about frames.

    Raises:
        ConfigError: If the embeddings would exceed ``max_bytes``, or the backbone finds an observation unusable.
        PluginError: If the suite has no expert and ``source`` is ``"expert"``.
    """
    rng = np.random.default_rng(seed)
    frames: list[Frame] = []
    progress.start(episodes, f"{source} episodes")
    specs = suite.episodes(split, skip + episodes)[skip:]
    for trajectory in _trajectories(backbone, suite, specs, source, policy, batch_size):
        found = _frames(trajectory, backbone, labelled=source == "expert" and label == "expert")
        frames += found if frames_per_episode is None else _pick(found, frames_per_episode, rng)
        progress.advance()
    progress.close()
    chosen = frames if samples is None else stratify(frames, samples, rng)
    return encode(backbone, chosen, batch_size, max_bytes, progress)


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
    """Single frames of recorded episodes, encoded, with the recorded actions as labels; nothing is remembered.

    Args:
        backbone: The frozen model.
        source: The episodes; those held out are left alone.
        samples: At most that many, half of them from around gripper flips where there are enough.
        per_episode: At most that many of each episode.
        seed: Of the choice.
        batch_size: Observations encoded at a time.
        max_bytes: Refuse to keep more embeddings than this in memory.
        progress: Told about frames.

    Raises:
        ArtifactError: If a row of the recording cannot be used.
        ConfigError: If the embeddings would exceed ``max_bytes``, or the backbone finds an observation unusable.
    """
    spec = backbone.spec
    stream = source.samples(spec.chunk_length, gripper_dim=spec.gripper_dim, per_episode=per_episode, seed=seed)
    # Twice as many as needed, so that both strata can be filled.
    frames = [_recorded_frame(backbone, sample) for sample in islice(stream, 2 * samples)]
    chosen = stratify(frames, samples, np.random.default_rng(seed))
    return encode(backbone, chosen, batch_size, max_bytes, progress)


def _recorded_frame(backbone: Backbone, sample: Sample) -> Frame:
    chunk = backbone.normalize(sample.actions).astype(np.float32)
    return Frame(sample.observation, sample.episode, chunk, sample.near_flip, None)


def _trajectories(
    backbone: Backbone,
    suite: TaskSuite,
    specs: Sequence[EpisodeSpec],
    source: Source,
    policy: Policy | None,
    lanes: int,
) -> Iterable[Trajectory]:
    if source == "expert":
        return (demonstrate(backbone, suite, spec) for spec in specs)
    return roll_out(policy or full_policy(backbone, suite.execute_horizon), suite, specs, lanes)


def _frames(trajectory: Trajectory, backbone: Backbone, *, labelled: bool) -> list[Frame]:
    near = trajectory.near_flip(backbone.spec.gripper_dim, backbone.spec.chunk_length)
    chunks = trajectory.chunks if labelled else [None] * len(trajectory)
    rows = zip(trajectory.observations, chunks, near.tolist(), trajectory.remembered(), strict=True)
    return [Frame(observation, trajectory.spec.index, chunk, flip, last) for observation, chunk, flip, last in rows]


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
    progress: Progress = NO_PROGRESS,
) -> Dataset:
    """Encode ``frames``, and label those without a chunk with what the full model predicts.

    Every sample is predicted as if it began an episode: heads with memory forget the one before.

    Raises:
        ConfigError: If there is no frame, or the embeddings would exceed ``max_bytes``.
    """
    if not frames:
        raise ConfigError("expected at least one frame to learn from, found none", hint="raise the number of episodes")
    parts: list[Batch] = []
    progress.start(len(frames), "encoding")
    for first in range(0, len(frames), batch_size):
        part = _encode_batch(backbone, frames[first : first + batch_size])
        _check_size(part, len(frames), max_bytes)
        parts += part.without_padding()
        progress.advance(len(part))
    progress.close()
    return Dataset.of(parts)


@torch.no_grad()
def _encode_batch(backbone: Backbone, frames: Sequence[Frame]) -> Batch:
    inputs = backbone.encode([frame.observation for frame in frames])
    episodes = torch.tensor([frame.episode for frame in frames])
    size = memory_size(backbone.spec.chunk_length, backbone.spec.action_dim)
    memory = torch.from_numpy(np.stack([remember(frame.remembered, size) for frame in frames]))
    return Batch(inputs, _targets(backbone, inputs, frames), episodes, memory).to(torch.device("cpu"))


def _targets(backbone: Backbone, inputs: LayerInputs, frames: Sequence[Frame]) -> Tensor:
    """``[B, N, A]``: each frame's own chunk, or what the full model predicts for it; that costs a pass."""
    blank = np.zeros((backbone.spec.chunk_length, backbone.spec.action_dim), np.float32)
    target = torch.from_numpy(np.stack([blank if frame.chunk is None else frame.chunk for frame in frames]))
    missing = torch.tensor([frame.chunk is None for frame in frames])
    if bool(missing.any()):
        target[missing] = full_actions(backbone, inputs).float().cpu()[missing]
    return target


def _check_size(part: Batch, samples: int, max_bytes: int) -> None:
    each = part.inputs.hidden.nbytes // len(part)
    if each * samples > max_bytes:
        raise ConfigError(
            f"{samples} samples of {each / 2**20:.1f} MiB would need {each * samples / 2**30:.1f} GiB of memory, "
            f"the limit is {max_bytes / 2**30:.1f} GiB",
            hint=f"collect at most {max_bytes // each} samples",
        )
