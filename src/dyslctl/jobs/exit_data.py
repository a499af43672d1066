"""The rounds of states that exits learn from.

Round 0 visits what the full model visits, with actions that sometimes go astray. Later rounds visit what a policy
visits that leaves early, at random: where adapters take the robot, adapters must know the way, and so must the planner
(DAgger, Ross et al. 2011). The full model labels them all.

On recorded episodes (:class:`dyslctl.data.replay.RecordedSuite`) nobody goes anywhere: the scene follows the recorded
actions. What is left of a policy's mistakes is its memory. In round 0 it is the chunk that the full model predicts at
the inference before; in later rounds it is what the exits themselves predicted there, leaving at random and remembering
their own chunks from one inference to the next. So exits learn to live with their mistakes in memory, but not in the
world.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from pathlib import Path

import numpy as np
import torch

from dyslctl.backbone import Backbone
from dyslctl.dysl.exit_policy import ExitPolicy
from dyslctl.dysl.exit_schedule import ExitSchedule
from dyslctl.errors import ConfigError
from dyslctl.jobs.data import Source, collect, encoder
from dyslctl.jobs.dataset import Dataset
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.jobs.sharing import shared
from dyslctl.jobs.training import Precision, autocast
from dyslctl.policy import Plan, Policy, full_policy
from dyslctl.suite import TaskSuite
from dyslctl.types import ActionChunk, Observation

ASTRAY, ASTRAY_ON_POLICY = 0.3, 0.15
"""Share of the episodes with actions that go astray, in round 0 and in later ones."""
ACTIONS_ASTRAY, SPREAD = 0.25, 0.3
"""In such an episode: the share of the actions, and the standard deviation of what is added, normalised."""
LANES = 64


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
        lanes: Environments that run side by side.
        processes: That they are spread over.
        precision: Of the passes; that of the training.
        folder: Where images wait, and processes that train together share what the leader collects; ``None``: in a
            temporary one, and each collects.
    """

    backbone: Backbone
    suites: Sequence[TaskSuite]
    episodes: int
    seed: int = 0
    source: Source = "policy"
    lanes: int = LANES
    processes: int = 1
    precision: Precision = "fp32"
    folder: Path | None = None
    progress: Progress = NO_PROGRESS

    @cached_property
    def explored(self) -> Dataset:
        """Round 0, collected at the first look.

        Raises:
            ConfigError: If there is no state, or the backbone finds an observation unusable.
            EnvironmentMismatch: If the disk is full.
            PluginError: If the suite has no expert and is asked for one.
        """
        full = full_policy(self.backbone, self.execute_horizon)
        return self._collect(0, Perturbed(full, ASTRAY, self.seed), self.source)

    def on_policy(self, number: int, schedule: ExitSchedule) -> Dataset:
        """Round ``number``, from 1 on: a policy acts that leaves as ``schedule`` says.

        Raises:
            ConfigError: If there is no state, or the backbone finds an observation unusable.
            EnvironmentMismatch: If the disk is full.
        """
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
            raise ConfigError(
                f"suites to learn from together must execute equally many actions, found {horizons}",
                hint="--set execute_horizon=N has each of them execute N",
            )
        return horizons.pop()

    def _collect(self, number: int, policy: Policy, source: Source) -> Dataset:
        collect_here = partial(self._collect_here, number, policy, source)
        if self.folder is None:
            return collect_here()
        return shared(collect_here, self.folder / f"round{number}.safetensors", encoder(self.backbone, self.precision))

    def _seen(self, suite: TaskSuite, share: int) -> int:
        """Initial states up to the last one of round 0; an expert may have left out some of them."""
        return suite.demonstrated_episodes("train", share)[-1].index + 1 if self.source == "expert" else share

    def _collect_here(self, number: int, policy: Policy, source: Source) -> Dataset:
        shares = [math.ceil(self.episodes / len(self.suites) / suite.max_score) for suite in self.suites]
        with autocast(self.precision, self.backbone.device):
            parts = [
                collect(
                    self.backbone,
                    suite,
                    episodes=share,
                    skip=self._seen(suite, share) + (number - 1) * share if number else 0,
                    source=source,
                    policy=policy,
                    label="teacher",
                    batch_size=self.lanes,
                    processes=self.processes,
                    folder=self.folder,
                    precision=self.precision,
                    progress=self.progress,
                )
                for suite, share in zip(self.suites, shares, strict=True)
            ]
        return reduce(Dataset.merge, parts)
