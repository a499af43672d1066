"""What trainings in one stage have in common: optimise, keep the curve, save the bundle."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dyslctl.artifacts.bundle import TrainingInfo
from dyslctl.artifacts.files import make_folder
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.backbone import Backbone
from dyslctl.jobs import distributed
from dyslctl.jobs.dataset import Dataset
from dyslctl.jobs.labelled import LabelledTraining
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.jobs.stage_result import CHECKPOINT, DistillResult, Stage, save_curve, training_info
from dyslctl.jobs.training import StepLoss, Trainee, require_float32, train
from dyslctl.trained import Trained


@dataclass(frozen=True, kw_only=True)
class OneStage(LabelledTraining):
    """Settings of any such training.

    Attributes:
        stage: Always 2: what decides is trained.
    """

    stage: Stage = 2


@dataclass(frozen=True)
class Work:
    """Where a training takes place.

    Attributes:
        backbone: The frozen model.
        profile: The run's.
        data: States to learn from.
        out: Folder of the checkpoint and the loss curve.
        bundle: Folder of the bundle to write.
        resume: Continue from the checkpoint in ``out``, to the same weights as a training without a break.
        command: What the user typed, for the artifact.
        progress: Told about each step.
    """

    backbone: Backbone
    profile: SkipProfile
    data: Dataset
    out: Path
    bundle: Path
    resume: bool = False
    command: str = "dyslctl distill"
    progress: Progress = NO_PROGRESS

    def check(self, settings: OneStage) -> None:
        """Before anything is computed.

        Raises:
            ArtifactError: If the profile belongs to other weights.
            ConfigError: If the settings do not fit the backbone's dtype, its head or the number of processes.
        """
        self.profile.check_backbone(self.backbone.spec)
        settings.require_memory(self.backbone)
        require_float32(self.backbone, settings)
        settings.require_equal_parts(settings.batch_size)


def train_once(
    work: Work,
    method: Trained,
    settings: OneStage,
    trainee: Trainee,
    step_loss: StepLoss,
    save: Callable[[TrainingInfo], Path],
) -> DistillResult:
    """Train ``trainee`` and ``save`` its bundle, as the leader of the processes that train together.

    Raises:
        ArtifactError: If the checkpoint is damaged.
        ConfigError: If training diverges, or the checkpoint has other settings.
        EnvironmentMismatch: If a file cannot be written.
    """
    begin, checkpoint = time.perf_counter(), make_folder(work.out) / CHECKPOINT
    curve = train(
        trainee, settings, step_loss, work.backbone.device, checkpoint, resume=work.resume, progress=work.progress
    )
    if distributed.leads():
        save_curve(work.out, curve)
        trainee.modules.eval()
        save(training_info(settings, method, len(work.data), curve))
    return DistillResult.of(settings, curve, [module for module, _ in trainee.rates], work.bundle, begin)
