"""The thresholds of ``dysl-paper``'s guidance, fitted to how the full model moves.

``eta_1`` and ``eta_2`` are not published and depend on the suite, on the horizon and on ``k``. They are chosen on the
``tune`` initial states, never on the ones that results are reported on.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from dyslctl.artifacts.bundle import save_settings
from dyslctl.artifacts.bundle_settings import Calibration
from dyslctl.artifacts.model_card import write_card
from dyslctl.artifacts.skip_profile import Guidance, SkipProfile
from dyslctl.backbone import Backbone
from dyslctl.dysl.calibration import CalibrationData, EtaCalibration, occupancy_etas, quantile_etas, tau_by_quantile
from dyslctl.dysl.partition import LayerPartition
from dyslctl.dysl.skip_modules import SkipModules, TokenPool
from dyslctl.dysl.states import residual_states
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.jobs.trained_modules import partition_of
from dyslctl.jobs.trained_paper import load_modules
from dyslctl.jobs.trajectories import Trajectory, roll_out
from dyslctl.policy import full_policy
from dyslctl.suite import Split, TaskSuite
from dyslctl.types import LayerState, Observation

Rule = Literal["occupancy", "quantile"]
OFFLINE = "offline: "
"""Begins the rule of thresholds for which no robot acted."""


@dataclass(frozen=True)
class CalibrationSettings:
    """How the thresholds are chosen.

    Attributes:
        rule: ``quantile`` takes ``p1`` and ``p2`` as they are; ``occupancy`` searches the ``p1`` that protects
            ``protected`` of the dynamic layers on average.
        p1: ``eta_1`` is this quantile of ``delta C``.
        p2: ``eta_2`` is the ``1 - p2`` quantile.
        protected: Target of ``occupancy``.
        skip_rate: Share of the recorded observations on which each controller, if asked, would skip: gives every one
            its own ``tau``. ``None`` leaves the common ``tau`` as it is.
    """

    rule: Rule = "occupancy"
    p1: float = 0.1
    p2: float = 0.5
    protected: float = 0.3
    skip_rate: float | None = None


@dataclass(frozen=True)
class CalibrationResult:
    """The fitted settings, as they now stand in the bundle.

    Attributes:
        guidance: All guidance settings.
        calibration: Where the thresholds come from.
        seconds: Wall-clock time, rollouts included.
    """

    guidance: Guidance
    calibration: Calibration
    seconds: float


def record(
    backbone: Backbone,
    suite: TaskSuite,
    *,
    episodes: int,
    split: Split = "tune",
    lanes: int = 32,
    processes: int = 1,
    progress: Progress = NO_PROGRESS,
) -> list[Trajectory]:
    """The full model's own episodes, in the order of their initial states."""
    trajectories: list[Trajectory] = []
    progress.start(episodes, "full-model episodes")
    policy = full_policy(backbone, suite.execute_horizon)
    with closing(roll_out(policy, suite, suite.episodes(split, episodes), lanes, processes)) as rolled:
        for trajectory in rolled:
            trajectories.append(trajectory)
            progress.advance()
    progress.close()
    return sorted(trajectories, key=lambda trajectory: trajectory.spec.index)


def fit_etas(
    trajectories: Sequence[Trajectory],
    guidance: Guidance,
    partition: LayerPartition,
    gripper_dim: int | None,
    how: CalibrationSettings,
) -> EtaCalibration:
    """Thresholds for the executed chunks of ``trajectories``, with ``guidance``'s other settings."""
    recordings = [recording for trajectory in trajectories for recording in trajectory.recordings()]
    # The fit reads k, chunk policy, stride and weights; the thresholds here only satisfy the type.
    settings = guidance.model_copy(update={"eta_1": -1.0, "eta_2": 0.0}).settings()
    data = CalibrationData(recordings, partition.segments, settings, gripper_dim)
    if how.rule == "quantile":
        return quantile_etas(data, how.p1, how.p2)
    return occupancy_etas(data, how.protected, how.p2)


@torch.inference_mode()
def skip_probabilities(
    backbone: Backbone, modules: SkipModules, observations: Sequence[Observation], batch_size: int = 64
) -> dict[int, np.ndarray]:
    """Dynamic layer -> its controller's probability of skipping on each observation, ``[observations]`` float64.

    In double precision, as it is compared with ``tau``: in bfloat16 all above 0.998 are 1. Asked on the full model's
    states, as if nothing had been skipped before.
    """
    found: dict[int, list[np.ndarray]] = {layer: [] for layer in modules.partition.dynamic_layers}
    for first in range(0, len(observations), batch_size):
        inputs = backbone.encode(observations[first : first + batch_size])
        states, _ = residual_states(backbone, inputs)
        pool = TokenPool.of(modules.sizes.pool, LayerState.of(inputs))
        for layer, answers in found.items():
            logits = modules.controller(layer)(pool(states[layer]))
            answers.append(logits.double().sigmoid().cpu().numpy())
    return {layer: np.concatenate(answers) for layer, answers in found.items()}


def fit_guidance(
    backbone: Backbone,
    suite: TaskSuite,
    profile: SkipProfile,
    bundle: Path,
    *,
    episodes: int = 50,
    split: Split = "tune",
    how: CalibrationSettings = CalibrationSettings(),
    lanes: int = 32,
    processes: int = 1,
    offline: bool = False,
    progress: Progress = NO_PROGRESS,
) -> CalibrationResult:
    """Fit the thresholds and write them into the settings of ``bundle``; its weights stay as they are.

    Args:
        backbone: The frozen model; all its layers run.
        suite: Where it acts.
        profile: Which layers are dynamic.
        bundle: Folder of the bundle.
        episodes: Episodes to record.
        split: Their initial states.
        how: The rule.
        lanes: Environments that run side by side.
        processes: That they are spread over.
        offline: ``suite`` plays recorded episodes: the full model predicts along them and does not act.
        progress: Told about each episode.

    Raises:
        ArtifactError: If there is no bundle, or it belongs to another profile or backbone.
        ConfigError: If the episodes are too short for a continuity.
    """
    begin = time.perf_counter()
    profile.check_backbone(backbone.spec)
    trained = load_modules(bundle, profile, backbone)
    where = {"lanes": lanes, "processes": processes}
    trajectories = record(backbone, suite, episodes=episodes, split=split, **where, progress=progress)
    etas = fit_etas(trajectories, trained.document, partition_of(profile), backbone.spec.gripper_dim, how)
    guidance = trained.document.model_copy(update={"eta_1": etas.eta_1, "eta_2": etas.eta_2})
    if how.skip_rate is not None:
        observations = [observation for trajectory in trajectories for observation in trajectory.observations]
        taus = tau_by_quantile(skip_probabilities(backbone, trained.modules, observations), how.skip_rate)
        guidance = guidance.model_copy(update={"tau_by_layer": taus, "lenience": 0.0})
    calibration = Calibration(
        rule=f"{OFFLINE}{how.rule}" if offline else how.rule,
        suite=suite.name,
        split=split,
        episodes=episodes,
        numbers=_numbers(etas) if offline else {**_numbers(etas), "mean_score": _mean_score(trajectories)},
        data_hash=_digest(trajectories),
        execute_horizon=suite.execute_horizon,
    )
    save_settings(bundle, guidance, calibration)
    write_card(bundle, profile.suite)
    return CalibrationResult(guidance, calibration, time.perf_counter() - begin)


def _mean_score(trajectories: Sequence[Trajectory]) -> float:
    return float(np.mean([trajectory.score for trajectory in trajectories]))


def _numbers(etas: EtaCalibration) -> dict[str, float]:
    return {
        "p1": etas.p1,
        "p2": etas.p2,
        "protected_fraction": etas.protected_fraction,
        "fully_protected": etas.fully_protected,
    }


def _digest(trajectories: Sequence[Trajectory]) -> str:
    digest = hashlib.sha256()
    for trajectory in trajectories:
        for chunk in trajectory.executed_chunks():
            digest.update(chunk.tobytes())
    return digest.hexdigest()
