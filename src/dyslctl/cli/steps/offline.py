"""Set ``dysl``'s tolerance on recorded episodes, where there is no simulator to try it in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.cli.config import CalibrateConfig
from dyslctl.cli.steps.calibrate import EPISODES, check_within, keep_calibration
from dyslctl.cli.steps.recorded import recorded_suite
from dyslctl.cli.workspace import Workspace
from dyslctl.errors import ConfigError
from dyslctl.jobs.budget import LAYER_TOLERANCE
from dyslctl.jobs.fit_tolerance import OfflineTarget, fit_tolerance
from dyslctl.jobs.progress import Progress
from dyslctl.jobs.trained_exits import load_exits
from dyslctl.methods import DAMAGE


def offline_target(budget: CalibrateConfig, method: str) -> OfflineTarget | None:
    """The target that can be met on a recording: layers or damage, for ``dysl``; the other methods have none.

    Raises:
        ConfigError: If the settings name one that needs a robot or a simulator, or that ``method`` cannot meet.
    """
    for flag, value in (("--target-ms", budget.target_ms), ("--max-success-drop", budget.max_success_drop)):
        if value is not None:
            raise ConfigError(
                f"{flag} is found in closed loop, and recorded episodes are no simulator",
                hint="--target-layers N, --set calibrate.max_damage=D, or --data policy to learn in the suite",
            )
    if method == "dysl":
        return OfflineTarget(budget.target_layers, budget.max_damage)
    if budget.target_layers is not None:
        raise ConfigError(
            f"'{method}' cannot be set to a number of layers on recorded episodes, only 'dysl' can",
            hint="dyslctl calibrate --target-layers does it in closed loop",
        )
    return None


def run_calibrate_offline(workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """What ``dyslctl calibrate --data`` does.

    Raises:
        ArtifactError: If the bundle or a recorded row cannot be used.
        ConfigError: If the method is not ``dysl``, or the target cannot be met on a recording.
    """
    budget = workspace.config.calibrate
    target = offline_target(budget, budget.method)
    if target is None:
        raise ConfigError(f"'{budget.method}' has no tolerance to set on recorded episodes", hint="--method dysl")
    with workspace.training():
        document = set_offline(workspace, target, workspace.run.bundle("dysl"), progress)
        keep_calibration(workspace, document)
    return document


def set_offline(workspace: Workspace, target: OfflineTarget, bundle: Path, progress: Progress) -> dict[str, Any]:
    """Set the tolerance of the bundle ``bundle`` of ``dysl`` on the run's recorded episodes: the result's document.

    Raises:
        ArtifactError: If the bundle or a recorded row cannot be used.
        ConfigError: If the run has no recorded episodes, or the target is out of reach.
    """
    backbone, profile = workspace.backbone.load(), SkipProfile.load(workspace.run.skip_profile)
    trained = load_exits(bundle, profile, backbone)
    check_within(target.layers, backbone.spec.num_layers, trained.modules.exits[0])
    suite = recorded_suite(workspace, trained.execute_horizon)
    if suite is None:
        raise ConfigError("expected recorded episodes, found none", hint="--data PATH")
    found = fit_tolerance(
        backbone,
        suite,
        profile,
        bundle,
        target,
        episodes=suite.available("tune", workspace.config.calibrate.episodes or EPISODES),
        progress=progress,
    )
    return {
        "schema": "dyslctl.calibrate/1",
        "offline": True,
        "method": "dysl",
        "suite": suite.name,
        "split": found.calibration.split,
        "episodes": found.calibration.episodes,
        "frames": found.frames,
        "target": str(target),
        "met": target.layers is None or abs(found.layers - target.layers) <= LAYER_TOLERANCE,
        "dial": found.tolerance,
        "layers_per_inference": found.layers,
        "damage": found.damage,
        "meaning": DAMAGE.meaning,
        "bundle_path": str(bundle),
        "figures": {},
    }
