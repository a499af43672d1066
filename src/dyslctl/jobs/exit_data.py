"""The rounds of states that exits learn from.

Round 0 visits what the full model visits, with actions that sometimes go astray. Later rounds visit what a policy
visits that leaves early, at random: where adapters take the robot, adapters must know the way (DAgger, Ross et al.
2011). The full model labels them all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.baselines.random_skip import RandomExits
from dyslctl.baselines.static_exit import EpisodeExit
from dyslctl.dysl.exit_policy import ExitPolicy
from dyslctl.dysl.exit_schedule import ExitLadder
from dyslctl.dysl.exit_training import ExitViews, exit_views
from dyslctl.dysl.exits import ExitModules
from dyslctl.errors import ConfigError
from dyslctl.jobs.data import Source, collect
from dyslctl.jobs.dataset import Dataset
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.jobs.training import Precision, autocast, uses_bf16
from dyslctl.policy import Plan, Policy, full_policy
from dyslctl.suite import TaskSuite
from dyslctl.types import ActionChunk, Observation

ASTRAY, ASTRAY_ON_POLICY = 0.3, 0.15
"""Share of the episodes with actions that go astray, in round 0 and in later ones."""
ACTIONS_ASTRAY, SPREAD = 0.25, 0.3
"""In such an episode: the share of the actions, and the standard deviation of what is added, normalised."""
LANES = 64
Visit = Literal["ladder", "episode"]
"""How a later round leaves early: at random at each exit, or through one exit for a whole episode."""


class Perturbed(Policy):
    """Another policy; in some episodes some of its actions go astray, so that it is seen to find back."""

    def __init__(self, policy: Policy, episodes: float, seed: int = 0) -> None:
        """``episodes``: the share of them in which it happens."""
        self.backbone, self.schedule = policy.backbone, policy.schedule
        self._policy, self._episodes, self._seed = policy, episodes, seed
        spec = policy.backbone.spec
        self._pose = [dim for dim in range(spec.action_dim) if dim != spec.gripper_dim]
        self.reset()

    def reset(self, seed: int = 0) -> None:
        """Toss whether this episode is one of them."""
        self._policy.reset(seed)
        self._rng = np.random.default_rng([self._seed, seed])
        self._astray = bool(self._rng.random() < self._episodes)

    def plan(self, observation: Observation) -> Plan:
        """The other policy's chunk, or one that goes astray."""
        chunk = yield from self._policy.plan(observation)
        self.last = self._policy.last
        return self._disturbed(chunk) if self._astray else chunk

    def _disturbed(self, chunk: ActionChunk) -> ActionChunk:
        """Noise on the pose, within the range of the normalised actions."""
        normalized = np.array(self.backbone.normalize(chunk.actions), np.float32)
        hit = self._rng.random(len(chunk)) < ACTIONS_ASTRAY
        noise = self._rng.normal(0, SPREAD, (len(chunk), len(self._pose))) * hit[:, None]
        normalized[:, self._pose] = np.clip(normalized[:, self._pose] + noise, -1, 1)
        (disturbed,) = self.backbone.decode_action(torch.from_numpy(normalized)[None])
        return disturbed


@dataclass(frozen=True)
class Rounds:
    """Where the states come from.

    Attributes:
        suites: Where; each plays its share of the episodes.
        episodes: Of each round, a chain counted as its instructions; no initial state is in two rounds.
        source: Who visits the states of round 0: the full model (``policy``) or the suite's expert.
        visit: How later rounds leave early.
        lanes: Environments that run side by side.
        precision: Of the passes; that of the training.
    """

    backbone: Backbone
    suites: Sequence[TaskSuite]
    episodes: int
    seed: int = 0
    source: Source = "policy"
    visit: Visit = "ladder"
    lanes: int = LANES
    precision: Precision = "fp32"
    progress: Progress = NO_PROGRESS

    @cached_property
    def explored(self) -> Dataset:
        """Round 0, collected at the first look.

        Raises:
            ConfigError: If the states would need too much memory.
            PluginError: If the suite has no expert and is asked for one.
        """
        full = full_policy(self.backbone, self.execute_horizon)
        return self._collect(0, Perturbed(full, ASTRAY, self.seed), self.source)

    def on_policy(self, number: int, modules: ExitModules, probability: float) -> Dataset:
        """Round ``number``: ``modules`` act, leaving at each exit with ``probability`` (or as :attr:`visit` says).

        Raises:
            ConfigError: If the states would need too much memory.
        """
        ladder, seed = ExitLadder(modules), self.seed + number
        schedule = (
            RandomExits(ladder, probability, seed=seed) if self.visit == "ladder" else EpisodeExit(ladder, seed=seed)
        )
        policy = ExitPolicy(self.backbone, schedule, self.execute_horizon)
        return self._collect(number, Perturbed(policy, ASTRAY_ON_POLICY, self.seed), "policy")

    @property
    def execute_horizon(self) -> int:
        """Actions executed before the next inference.

        Raises:
            ConfigError: If the suites do not agree on it.
        """
        horizons = {suite.execute_horizon for suite in self.suites}
        if len(horizons) != 1:
            raise ConfigError(f"suites to learn from together must execute equally many actions, found {horizons}")
        return horizons.pop()

    def _collect(self, number: int, policy: Policy, source: Source) -> Dataset:
        shares = [math.ceil(self.episodes / len(self.suites) / suite.max_score) for suite in self.suites]
        with autocast(self.precision, self.backbone.device):
            parts = [
                collect(
                    self.backbone,
                    suite,
                    episodes=share,
                    skip=number * share,
                    seed=self.seed,
                    source=source,
                    policy=policy,
                    label="teacher",
                    batch_size=self.lanes,
                    progress=self.progress,
                )
                for suite, share in zip(self.suites, shares, strict=True)
            ]
        return reduce(Dataset.merge, parts)


class ExitSamples:
    """A dataset as the exits see it: computed once and kept if it fits, else one frozen pass for each batch.

    Both ways the same batches, up to the order of sums in passes over more or fewer rows.
    """

    def __init__(
        self,
        backbone: Backbone,
        data: Dataset,
        exits: Sequence[int],
        max_bytes: int,
        *,
        remembers: bool = True,
        precision: Precision = "fp32",
        progress: Progress = NO_PROGRESS,
    ) -> None:
        """Make the passes, or do not.

        Args:
            backbone: The frozen model.
            data: Its samples.
            exits: Ascending.
            max_bytes: The most memory that may be kept, on the CPU.
            remembers: Whether the exits are told the last chunk.
            precision: Of the passes, as in training; hidden states are rounded to it.
            progress: Told about each sample.
        """
        self._backbone, self._data, self._exits, self._precision = backbone, data, exits, precision
        self._max_bytes, self._remembers = max_bytes, remembers
        self._kept: list[ExitViews] | None = None
        if self._fits():
            progress.start(len(data), "states before the exits")
            self._kept = [self._views_of(group, progress) for group in range(len(data.groups))]
            progress.close()

    def __len__(self) -> int:
        return len(self._data)

    def merge(self, other: ExitSamples) -> ExitSamples:
        """The samples of both; what both have kept is not computed again."""
        merged = copy(self)
        merged._data = self._data.merge(other._data)
        merged._kept = None
        if self._kept is not None and other._kept is not None and merged._fits():
            parts = [*self._kept, *other._kept]
            lengths = [len(group.inputs.hidden[0]) for group in (*self._data.groups, *other._data.groups)]
            merged._kept = [
                ExitViews.join([part for part, n in zip(parts, lengths, strict=True) if n == length])
                for length in sorted(set(lengths))
            ]
        return merged

    @property
    def kept(self) -> bool:
        """Whether they fitted."""
        return self._kept is not None

    def digest(self) -> str:
        """Of the data set."""
        return self._data.digest()

    def batch(self, seed: int, step: int, size: int) -> tuple[ExitViews, Tensor]:
        """Views and targets ``[B, N, A]`` of the samples that ``Dataset.batch`` draws."""
        group, rows = self._data.draw(seed, step, size)
        return self._rows(group, rows)

    def batches(self, size: int = 128) -> Iterator[tuple[ExitViews, Tensor]]:
        """Every sample once, at most ``size`` at a time."""
        for group in range(len(self._data.groups)):
            for rows in self._parts(group, size):
                yield self._rows(group, rows)

    def _rows(self, group: int, rows: Tensor) -> tuple[ExitViews, Tensor]:
        backbone, samples = self._backbone, self._data.groups[group]
        views = self._compute(group, rows) if self._kept is None else self._kept[group].rows(rows)
        return views.to(backbone.device, backbone.dtype), samples.target[rows].to(backbone.device)

    def _compute(self, group: int, rows: Tensor) -> ExitViews:
        device, precision = self._backbone.device, self._precision
        samples = self._data.groups[group].rows(rows).to(device)
        with autocast(precision, device):
            views = exit_views(self._backbone, samples.inputs, samples.memory * self._remembers, self._exits)
        return views.to(device, torch.bfloat16 if uses_bf16(precision, device) else views.hidden.dtype)

    def _parts(self, group: int, size: int = 128) -> list[Tensor]:
        return list(torch.split(torch.arange(len(self._data.groups[group])), size))

    def _fits(self) -> bool:
        return self._compute(0, torch.arange(1)).hidden.nbytes * len(self._data) <= self._max_bytes

    def _views_of(self, group: int, progress: Progress) -> ExitViews:
        parts = []
        for rows in self._parts(group):
            views = self._compute(group, rows)
            parts.append(views.to(torch.device("cpu"), views.hidden.dtype))
            progress.advance(len(rows))
        return ExitViews.join(parts)
