"""The methods that can be trained, each with its settings from the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from dyslctl import plugins
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.cli.workspace import Workspace, command_line
from dyslctl.jobs.calibrate import CalibrationSettings, calibrate
from dyslctl.jobs.data import collect
from dyslctl.jobs.dataset import Dataset
from dyslctl.jobs.distill import DistillResult, DistillSettings, Stage, distill
from dyslctl.jobs.distill_exits import ExitTraining, distill_exits
from dyslctl.jobs.exit_data import Rounds
from dyslctl.jobs.progress import Progress

NOT_OPTIMISATION = {"episodes", "data", "method", "suites"}
"""Keys of the section ``distill`` that say what to learn from, not how."""


class Trainer(Protocol):
    """One method's training: its stages share what was collected."""

    def train(self, stage: Stage, bundle: Path, *, resume: bool) -> DistillResult:
        """Train ``stage`` and write its bundle."""

    def calibrate(self, bundle: Path) -> None:
        """Choose what a stage-2 bundle needs before anything can run."""


@dataclass(frozen=True)
class ExitTrainer:
    """``dysl`` and ``static``: the same exits, learnt from other states."""

    workspace: Workspace
    profile: SkipProfile
    progress: Progress

    @cached_property
    def rounds(self) -> Rounds:
        """The states to learn from."""
        work, settings = self.workspace, self.workspace.config.distill
        return Rounds(
            work.backbone.load(),
            [plugins.load_suite(name) for name in settings.suites or [work.suite.name]],
            settings.episodes or 300,
            work.config.seed,
            settings.data or "policy",
            visit="episode" if settings.method == "static" else "ladder",
            precision=settings.precision or "auto",
            progress=self.progress,
        )

    def train(self, stage: Stage, bundle: Path, *, resume: bool) -> DistillResult:
        """See :func:`distill_exits`."""
        backbone, run, method = self.workspace.backbone.load(), self.workspace.run, self.workspace.config.distill.method
        return distill_exits(
            backbone,
            self.profile,
            self.rounds,
            ExitTraining.default(stage, backbone.spec.hidden_size).override(_changed(self.workspace)),
            out=run.distill(method, stage),
            bundle=bundle,
            init=run.bundle(method, 1) if stage == 2 else None,
            resume=resume,
            command=command_line(),
            progress=self.progress,
        )

    def calibrate(self, bundle: Path) -> None:
        """Nothing yet: the threshold is found in closed loop, once the bundle is in its place."""


@dataclass(frozen=True)
class PaperTrainer:
    """``dysl-paper``."""

    workspace: Workspace
    profile: SkipProfile
    progress: Progress

    @cached_property
    def states(self) -> Dataset:
        """The states to learn from."""
        work, settings = self.workspace, self.workspace.config.distill
        return collect(
            work.backbone.load(),
            work.suite,
            episodes=settings.episodes or 200,
            seed=work.config.seed,
            source=settings.data or "expert",
            progress=self.progress,
        )

    def train(self, stage: Stage, bundle: Path, *, resume: bool) -> DistillResult:
        """See :func:`distill`."""
        backbone, run = self.workspace.backbone.load(), self.workspace.run
        return distill(
            backbone,
            self.profile,
            self.states,
            DistillSettings.default(stage, backbone.spec.hidden_size).override(_changed(self.workspace)),
            out=run.distill("dysl-paper", stage),
            bundle=bundle,
            init=run.bundle("dysl-paper", 1) if stage == 2 else None,
            resume=resume,
            command=command_line(),
            progress=self.progress,
        )

    def calibrate(self, bundle: Path) -> None:
        """The guidance's thresholds; see :func:`dyslctl.jobs.calibrate.calibrate`."""
        settings = self.workspace.config.calibrate
        calibrate(
            self.workspace.backbone.load(),
            self.workspace.suite,
            self.profile,
            bundle,
            episodes=settings.episodes,
            how=CalibrationSettings(**settings.model_dump(exclude={"episodes"})),
            progress=self.progress,
        )


def trainer(workspace: Workspace, progress: Progress) -> Trainer:
    """The training of the method that the configuration names.

    Raises:
        ArtifactError: If the skip profile is missing, damaged, or of another backbone.
    """
    profile = SkipProfile.load(workspace.run.skip_profile)
    profile.check_backbone(workspace.backbone.load().spec)
    kind = PaperTrainer if workspace.config.distill.method == "dysl-paper" else ExitTrainer
    return kind(workspace, profile, progress)


def _changed(workspace: Workspace) -> dict[str, Any]:
    """What the user set."""
    settings = workspace.config.distill.model_dump(exclude=NOT_OPTIMISATION, exclude_none=True)
    return {**settings, "seed": workspace.config.seed}
