"""Set a trained method's dial to a budget, in closed loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from dyslctl import methods
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.backbone import Backbone
from dyslctl.cli.config import BudgetConfig
from dyslctl.cli.workspace import Workspace
from dyslctl.errors import ConfigError
from dyslctl.jobs.budget import Found, MaxSuccessDrop, Target, TargetLayers, TargetMs, find_dial
from dyslctl.jobs.closed_loop import ClosedLoop, Stage
from dyslctl.jobs.progress import Progress
from dyslctl.jobs.set_dial import save_dial
from dyslctl.jobs.statistics import wilson

TARGETS: Mapping[str, Callable[[float], Target]] = {
    "target_layers": TargetLayers,
    "target_ms": TargetMs,
    "max_success_drop": MaxSuccessDrop,
}
FLAGS = ", ".join(f"--{name.replace('_', '-')}" for name in TARGETS)
SIDE_BY_SIDE = 32
"""Episodes in one batch where the user does not say."""


def target_of(settings: BudgetConfig) -> Target | None:
    """The target that the settings name, if any.

    Raises:
        ConfigError: If they name more than one.
    """
    given = {name: value for name in TARGETS if (value := getattr(settings, name)) is not None}
    if len(given) > 1:
        raise ConfigError(f"expected one target, found {len(given)}: {', '.join(given)}", hint=f"one of {FLAGS}")
    return next((TARGETS[name](value) for name, value in given.items()), None)


def run_calibrate(workspace: Workspace, *, resume: bool, progress: Progress) -> dict[str, Any]:
    """What ``dyslctl calibrate`` does.

    Raises:
        ConfigError: If the settings do not name exactly one target.
    """
    target = target_of(workspace.config.budget)
    if target is None:
        raise ConfigError("expected a target, found none", hint=f"one of {FLAGS}")
    return calibrate_to(workspace, workspace.config.budget.method, target, resume=resume, progress=progress)


def calibrate_to(
    workspace: Workspace, method: str, target: Target, *, resume: bool, progress: Progress
) -> dict[str, Any]:
    """Find ``method``'s dial for ``target``, write it into its bundle, and return the result's document.

    Raises:
        ConfigError: If the method has no dial or no bundle of its own, or the target is out of its reach; the bundle
            then stays as it was.
        ArtifactError: If the bundle is missing or damaged.
    """
    dial = methods.method(method).dial
    if dial is None or methods.method(method).bundle != method:
        raise ConfigError(
            f"'{method}' has no dial of its own to calibrate", hint=f"--method {' or '.join(calibratable())}"
        )
    recipe = workspace.policies([method])
    stage = Stage(
        workspace.suite,
        workspace.suite.episodes("tune", workspace.config.budget.episodes),
        workspace.run.path / "calibrate",
        resume,
        workspace.config.budget.workers,
        batch_for(workspace.config.budget.batch, workspace.backbone.load()),
        progress,
    )
    found = find_dial(ClosedLoop(method, recipe, stage), (dial.low, dial.high), target)
    _check_reached(method, found)
    bundle = workspace.run.bundle(method)
    save_dial(bundle, found, stage, SkipProfile.load(recipe.skip_profile).suite)
    document = {**_document(method, found, stage), "meaning": dial.meaning, "bundle_path": str(bundle), "figures": {}}
    workspace.keep(f"calibrate-{method}", document, stage.out / method)
    return document


def calibratable() -> list[str]:
    """The methods with a dial and a bundle of their own."""
    return [name for name in methods.names() if methods.method(name).dial and methods.method(name).bundle == name]


def batch_for(asked: int | None, backbone: Backbone) -> int:
    """``asked``, or as many side by side as pays; a head with a memory serves one episode at a time."""
    return asked or (SIDE_BY_SIDE if backbone.snapshot() is None else 1)


def _check_reached(method: str, found: Found) -> None:
    """A number of layers that no dial reaches is an error; one between two steps of the dial is not."""
    layers = [outcome.layers for outcome in found.tried.values()]
    low, high = min(layers), max(layers)
    asked = found.target.layers if isinstance(found.target, TargetLayers) else None
    if asked is not None and not found.met and not low < asked < high:
        raise ConfigError(
            f"{found.target}: '{method}' runs {low:.2f} to {high:.2f} layers on these episodes",
            hint=f"--target-layers between {low:.2f} and {high:.2f}",
        )
    if not found.met and isinstance(found.target, MaxSuccessDrop):
        raise ConfigError(
            f"{found.target}: '{method}' loses more even at {high:.2f} layers", hint="allow a larger drop"
        )


def _document(method: str, found: Found, stage: Stage) -> dict[str, Any]:
    outcome = found.outcome
    return {
        "schema": "dyslctl.calibrate/1",
        "method": method,
        "suite": stage.suite.name,
        "split": stage.specs[0].split,
        "episodes": outcome.episodes,
        "target": str(found.target),
        "met": found.met,
        "dial": found.dial,
        "layers_per_inference": outcome.layers,
        "successes": outcome.successes,
        "success_rate": outcome.successes / outcome.episodes,
        "success_ci95": wilson(outcome.successes, outcome.episodes),
        "llm_ms": found.ms,
        "tried": [{"dial": dial, **asdict(tried)} for dial, tried in sorted(found.tried.items())],
    }
