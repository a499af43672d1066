"""A tolerance for ``dysl`` where there is no simulator: from held-out recorded episodes.

The policy is played along the recording (:mod:`dyslctl.data.replay`): it predicts at every inference step and remembers
what it predicted, but the scene follows the recorded actions. That shows how many layers a tolerance comes to on such
frames and how far the actions are from the full model's. It does not show success: only a robot or a simulator does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dyslctl.artifacts.bundle import save_settings
from dyslctl.artifacts.bundle_settings import Calibration
from dyslctl.artifacts.model_card import write_card
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.backbone import Backbone
from dyslctl.data.replay import RecordedSuite
from dyslctl.dysl.exit_policy import ExitPolicy
from dyslctl.dysl.exit_schedule import ExitLadder, PlannedExit, worthwhile
from dyslctl.dysl.exits import DAMAGE_FLOOR, ExitModules
from dyslctl.errors import ConfigError
from dyslctl.jobs.data import collect
from dyslctl.jobs.dataset import Dataset
from dyslctl.jobs.exit_samples import ExitSamples, planner_samples
from dyslctl.jobs.fit_guidance import OFFLINE
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.jobs.trained_exits import load_exits
from dyslctl.policy import Policy, full_policy

HALVINGS = 40
LANES = 16
"""Recordings played side by side; each holds the images of one episode as they are stored."""


@dataclass(frozen=True)
class OfflineTarget:
    """What the tolerance is for.

    Attributes:
        layers: Mean executed layers an inference; ``None``: the damage decides.
        damage: Predicted damages that are taken are all below this, as a share of the motion.
    """

    layers: float | None = None
    damage: float = 0.1

    def __str__(self) -> str:
        return f"predicted damage below {self.damage:g}" if self.layers is None else f"{self.layers:g} layers"


@dataclass(frozen=True)
class OfflineResult:
    """What a tolerance comes to on the held-out episodes.

    Attributes:
        tolerance: Log of the damage that is worth as much as all layers.
        layers: Mean executed layers an inference.
        damage: Mean distance of the predicted actions to the full model's, as a share of the motion.
        frames: Inferences behind both.
        calibration: As it stands in the bundle.
    """

    tolerance: float
    layers: float
    damage: float
    frames: int
    calibration: Calibration


@dataclass(frozen=True)
class Answers:
    """What the exits would do at each of ``n`` inferences.

    Attributes:
        predicted: ``[n, E]`` float64, log damage as the planner says.
        true: ``[n, E]`` damage in truth.
    """

    predicted: np.ndarray
    true: np.ndarray
    exits: tuple[int, ...]
    num_layers: int

    def layers(self, tolerance: float) -> float:
        """Mean layers an inference."""
        return float(self._left(tolerance).mean())

    def damage(self, tolerance: float) -> float:
        """Mean true damage; running every layer does none."""
        left = self._left(tolerance)
        return float(sum(self.true[left == layer, column].sum() for column, layer in enumerate(self.exits)) / len(left))

    def tolerance(self, layers: float) -> float:
        """The tolerance whose mean layers come nearest to ``layers``; they fall as it rises.

        Raises:
            ConfigError: If none comes as low or as high.
        """
        low, high = float(self.predicted.min()) - 1, float(self.predicted.max()) + math.log(self.num_layers)
        most, fewest = self.layers(low), self.layers(high)
        if not fewest <= layers <= most:
            raise ConfigError(
                f"{layers:g} layers: 'dysl' runs {fewest:.2f} to {most:.2f} layers on these frames",
                hint=f"--target-layers between {fewest:.2f} and {most:.2f}",
            )
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.layers(middle) > layers else (low, middle)
        return min((low, high), key=lambda at: abs(self.layers(at) - layers))

    def _left(self, tolerance: float) -> np.ndarray:
        """``[n]``, where each inference leaves."""
        rows = self.predicted.tolist()
        return np.array([worthwhile(row, tolerance, self.exits, self.num_layers) for row in rows])


def fit_tolerance(
    backbone: Backbone,
    suite: RecordedSuite,
    profile: SkipProfile,
    bundle: Path,
    target: OfflineTarget,
    *,
    episodes: int,
    progress: Progress = NO_PROGRESS,
) -> OfflineResult:
    """Set the tolerance of ``bundle`` on the held-out episodes of ``suite``; its weights stay as they are.

    Args:
        backbone: The frozen model.
        suite: The recording.
        profile: Which layers are dynamic.
        bundle: Folder of a bundle of ``dysl``.
        target: What the tolerance is for.
        episodes: Held-out episodes to play.
        progress: Told about episodes and frames.

    Raises:
        ArtifactError: If there is no such bundle, or it belongs to another profile or backbone, or a recorded row
            cannot be used.
        ConfigError: If the target is out of reach.
    """
    trained = load_exits(bundle, profile, backbone)
    modules = trained.modules

    def play(policy: Policy) -> Dataset:
        return collect(
            backbone, suite, episodes=episodes, split="tune", source="policy", policy=policy, label="teacher",
            batch_size=LANES, folder=bundle.parent, progress=progress,
        )  # fmt: skip

    # What is remembered depends on the tolerance: a first one is fitted with the full model's memory, then its own's.
    data = play(full_policy(backbone, suite.execute_horizon))
    first = _fit(_answers(backbone, modules, data, suite.execute_horizon), target)
    data = play(_planned(backbone, modules, first, suite.execute_horizon))
    answers = _answers(backbone, modules, data, suite.execute_horizon)
    tolerance = _fit(answers, target)
    layers, damage = answers.layers(tolerance), answers.damage(tolerance)
    calibration = Calibration(
        rule=f"{OFFLINE}{target}",
        suite=suite.name,
        split="tune",
        episodes=episodes,
        numbers={"dial": tolerance, "layers": layers, "damage": damage, "frames": float(len(data))},
        data_hash=data.digest(),
    )
    save_settings(bundle, trained.document.model_copy(update={"tolerance": tolerance}), calibration)
    write_card(bundle, profile.suite)
    return OfflineResult(tolerance, layers, damage, len(data), calibration)


def _planned(backbone: Backbone, modules: ExitModules, tolerance: float, execute_horizon: int) -> Policy:
    schedule = PlannedExit(ExitLadder(modules, backbone.pack), modules.planner.bind(), tolerance)
    return ExitPolicy(backbone, schedule, execute_horizon)


def _answers(backbone: Backbone, modules: ExitModules, data: Dataset, executed: int) -> Answers:
    samples = ExitSamples(backbone, data, modules.exits, max_bytes=0, remembers=modules.sizes.remembers)
    features, damages = planner_samples(backbone, modules, samples, executed)
    predicted = modules.planner.bind()(features.to(backbone.device, backbone.dtype)).double().cpu().numpy()
    true = damages.exp().numpy() - DAMAGE_FLOOR
    return Answers(predicted, true, modules.exits, modules.partition.num_layers)


def _fit(answers: Answers, target: OfflineTarget) -> float:
    """A number of layers is met on the frames; a damage is taken at the planner's word."""
    if target.layers is None:
        return math.log(target.damage + DAMAGE_FLOOR)
    return answers.tolerance(target.layers)
