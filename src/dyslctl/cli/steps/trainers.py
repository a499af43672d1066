"""The methods that can be trained, each with its settings from the configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.baselines.flexidepth_tokens import require_token_skips
from dyslctl.baselines.mole import require_pictures
from dyslctl.cli.steps.recorded import recorded_suite
from dyslctl.cli.workspace import Workspace, command_line, load_suite, with_subtasks
from dyslctl.errors import ConfigError
from dyslctl.jobs import exit_data, fit_tolerance
from dyslctl.jobs.data import collect, encoder
from dyslctl.jobs.dataset import Dataset
from dyslctl.jobs.distill_exits import ExitMethod, ExitTraining, distill_exits
from dyslctl.jobs.distill_flexidepth import RouterTraining, distill_flexidepth
from dyslctl.jobs.distill_mole import MixtureTraining, distill_mole
from dyslctl.jobs.distill_paper import DistillSettings, distill_paper
from dyslctl.jobs.exit_data import Rounds
from dyslctl.jobs.fit_guidance import CalibrationSettings, fit_guidance
from dyslctl.jobs.progress import Progress
from dyslctl.jobs.sharing import shared
from dyslctl.jobs.single_stage import OneStage, Work
from dyslctl.jobs.stage_result import DistillResult, Stage
from dyslctl.jobs.trained_flexidepth import RouterMethod
from dyslctl.suite import TaskSuite

ON_SUITES = ("dysl", "static", "deer")
"""The methods whose states may come from several suites, ``distill.suites``."""
NOT_OPTIMISATION = {"episodes", "data", "method", "suites", "workers"}
"""Keys of the section ``distill`` that say what to learn from, not how."""
EXIT_EPISODES, EXPERT_EPISODES, GUIDANCE_EPISODES = 300, 200, 50
"""Episodes of a round of exits, of the one data set of the other trainings, and of the guidance's thresholds.

Of chains so many that they have as many subtasks (see also :class:`Rounds`); of a recording at most what it has.
"""


class Trainer(Protocol):
    """One method's training: its stages share what was collected."""

    def train(self, stage: Stage, bundle: Path, *, resume: bool) -> DistillResult:
        """Train ``stage`` and write its bundle."""

    def calibrate(self, bundle: Path) -> None:
        """Choose what a stage-2 bundle needs before anything can run."""


@dataclass(frozen=True)
class ExitTrainer:
    """``dysl``, ``static`` and ``deer``: exits, learnt from the states that each leads to."""

    workspace: Workspace
    profile: SkipProfile
    progress: Progress
    method: ExitMethod

    @cached_property
    def rounds(self) -> Rounds:
        """The states to learn from."""
        work, settings = self.workspace, self.workspace.config.distill
        suites, episodes = _learn_from(work)
        return Rounds(
            work.backbone.load(),
            suites,
            episodes,
            work.config.seed,
            settings.data or "policy",
            lanes=exit_data.LANES if work.config.data.path is None else fit_tolerance.LANES,
            processes=settings.workers,
            precision=settings.precision or "auto",
            folder=work.run.distill(self.method, 1),
            progress=self.progress,
        )

    def train(self, stage: Stage, bundle: Path, *, resume: bool) -> DistillResult:
        """See :func:`distill_exits`."""
        backbone, run, method = self.workspace.backbone.load(), self.workspace.run, self.method
        usual = {"remembers": method != "deer"}
        return distill_exits(
            backbone,
            self.profile,
            self.rounds,
            ExitTraining.default(stage, backbone.spec.hidden_size).override({**usual, **_changed(self.workspace)}),
            out=run.distill(method, stage),
            bundle=bundle,
            method=method,
            init=run.bundle(method, 1) if stage == 2 else None,
            resume=resume,
            command=command_line(),
            progress=self.progress,
        )

    def calibrate(self, bundle: Path) -> None:
        """Nothing: the tolerance belongs to a target, to which ``steps.distill`` sets the new bundle itself."""


@dataclass(frozen=True)
class PaperTrainer:
    """``dysl-paper``."""

    workspace: Workspace
    profile: SkipProfile
    progress: Progress

    @cached_property
    def states(self) -> Dataset:
        """The states to learn from."""
        return _labelled_states(self.workspace, self.workspace.run.distill("dysl-paper", 1), self.progress)

    def train(self, stage: Stage, bundle: Path, *, resume: bool) -> DistillResult:
        """See :func:`distill_paper`."""
        backbone, run = self.workspace.backbone.load(), self.workspace.run
        settings = self._settings(stage)
        settings.require_memory(backbone)  # before any episode is played
        return distill_paper(
            backbone,
            self.profile,
            self.states,
            settings,
            out=run.distill("dysl-paper", stage),
            bundle=bundle,
            init=None if stage == 1 or settings.from_scratch else run.bundle("dysl-paper", 1),
            resume=resume,
            command=command_line(),
            progress=self.progress,
        )

    def _settings(self, stage: Stage) -> DistillSettings:
        """From scratch, stage 2 takes as many steps as both stages would."""
        changed, spec = _changed(self.workspace), self.workspace.backbone.load().spec
        defaults = [DistillSettings.default(number, spec.hidden_size, spec.window) for number in (1, stage)]
        first, asked = [default.override(changed) for default in defaults]
        return replace(asked, steps=first.steps + asked.steps) if asked.from_scratch else asked

    def calibrate(self, bundle: Path) -> None:
        """The guidance's thresholds; see :func:`dyslctl.jobs.fit_guidance.fit_guidance`."""
        settings, recorded = self.workspace.config.guidance, recorded_suite(self.workspace)
        asked = settings.episodes or with_subtasks(recorded or self.workspace.suite, GUIDANCE_EPISODES)
        fit_guidance(
            self.workspace.backbone.load(),
            recorded or self.workspace.suite,
            self.profile,
            bundle,
            episodes=recorded.available("tune", asked) if recorded else asked,
            how=CalibrationSettings(**settings.model_dump(exclude={"episodes"})),
            processes=self.workspace.config.distill.workers,
            offline=recorded is not None,
            progress=self.progress,
        )


@dataclass(frozen=True)
class OneStageTrainer:
    """``flexidepth``, ``flexidepth-tokens`` and ``mole``: one stage, which is the second."""

    workspace: Workspace
    profile: SkipProfile
    progress: Progress
    method: RouterMethod | Literal["mole"]

    def train(self, stage: Stage, bundle: Path, *, resume: bool) -> DistillResult:
        """See :func:`distill_flexidepth` and :func:`distill_mole`."""
        spec, changed = self.workspace.backbone.load().spec, _changed(self.workspace)
        if self.method == "mole":
            mixture = MixtureTraining.default(spec.hidden_size, spec.window).override(changed)
            return distill_mole(self._work(mixture, bundle, resume=resume), mixture)
        routers = RouterTraining.default(spec.hidden_size, spec.window).override(changed)
        return distill_flexidepth(self._work(routers, bundle, resume=resume), routers, self.method)

    def _work(self, settings: OneStage, bundle: Path, *, resume: bool) -> Work:
        """What cannot be learnt is refused before any episode is played."""
        backbone, out = self.workspace.backbone.load(), self.workspace.run.distill(self.method, settings.stage)
        if self.method == "flexidepth-tokens":
            require_token_skips(backbone)
        if self.method == "mole":
            require_pictures(backbone)
        settings.require_memory(backbone)
        data = _labelled_states(self.workspace, out, self.progress)
        return Work(backbone, self.profile, data, out, bundle, resume, command_line(), self.progress)

    def calibrate(self, bundle: Path) -> None:
        """Nothing: routers decide as they did in training until a target says otherwise."""


def _labelled_states(workspace: Workspace, folder: Path, progress: Progress) -> Dataset:
    """States with the actions to learn, the expert's unless told otherwise; ``folder`` is the training's."""

    def gather() -> Dataset:
        settings, recorded = workspace.config.distill, recorded_suite(workspace)
        usual = with_subtasks(recorded or workspace.suite, EXPERT_EPISODES)
        return collect(
            workspace.backbone.load(),
            recorded or workspace.suite,
            episodes=settings.episodes or (recorded.available("train", usual) if recorded else usual),
            source=settings.data or "expert",
            processes=settings.workers,
            folder=folder,
            progress=progress,
        )

    return shared(gather, folder / "states.safetensors", encoder(workspace.backbone.load()))


def _learn_from(workspace: Workspace) -> tuple[list[TaskSuite], int]:
    """The suites that exits learn from, and how many episodes of them.

    Raises:
        ArtifactError: If recorded episodes cannot be read.
        ConfigError: If they do not fit the backbone, or suites are named beside them.
    """
    recorded, settings = recorded_suite(workspace), workspace.config.distill
    if recorded is None:
        suites = [load_suite(workspace.config, workspace.backbone, name) for name in settings.suites or ()]
        return suites or [workspace.suite], settings.episodes or EXIT_EPISODES
    if settings.suites is not None:
        raise ConfigError(
            f"distill.suites names {', '.join(settings.suites)}, but the run learns from {recorded.name}",
            hint="leave distill.suites out, or forget the recorded episodes with --data policy",
        )
    return [recorded], settings.episodes or recorded.available("train", EXIT_EPISODES)


def trainer(workspace: Workspace, progress: Progress) -> Trainer:
    """The training of the method that the configuration names.

    Raises:
        ArtifactError: If the skip profile is missing, damaged, or of another backbone.
    """
    profile = SkipProfile.load(workspace.run.skip_profile)
    profile.check_backbone(workspace.backbone.load().spec)
    method, suites = workspace.config.distill.method, workspace.config.distill.suites
    if suites is not None and method not in ON_SUITES:
        raise ConfigError(
            f"distill.suites names {', '.join(suites)}, but '{method}' learns from the run's suite alone",
            hint=f"leave it out, or --method {' or '.join(ON_SUITES)}",
        )
    match method:
        case "dysl" | "static" | "deer":
            return ExitTrainer(workspace, profile, progress, method)
        case "dysl-paper":
            return PaperTrainer(workspace, profile, progress)
        case "flexidepth" | "flexidepth-tokens" | "mole":
            return OneStageTrainer(workspace, profile, progress, method)


def _changed(workspace: Workspace) -> dict[str, Any]:
    """What the user set."""
    settings = workspace.config.distill.model_dump(exclude=NOT_OPTIMISATION, exclude_none=True)
    return {**settings, "seed": workspace.config.seed}
