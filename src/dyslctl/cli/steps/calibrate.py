"""Set a trained method's dial to a budget, in closed loop."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dyslctl import methods
from dyslctl.artifacts.files import read_json
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.cli.config import CalibrateConfig
from dyslctl.cli.workspace import Workspace, with_subtasks
from dyslctl.errors import ConfigError
from dyslctl.jobs.budget import Found, MaxSuccessDrop, Target, TargetLayers, TargetMs, find_dial
from dyslctl.jobs.closed_loop import DIAL_FOLDER, ClosedLoop, Stage
from dyslctl.jobs.progress import Progress
from dyslctl.jobs.recipe import PolicyRecipe
from dyslctl.jobs.rollout import MANIFEST
from dyslctl.jobs.set_dial import save_dial
from dyslctl.jobs.statistics import wilson
from dyslctl.jobs.summary import BASELINE

TARGETS: Mapping[str, Callable[[float], Target]] = {
    "target_layers": TargetLayers,
    "target_ms": TargetMs,
    "max_success_drop": MaxSuccessDrop,
}
FLAGS = ", ".join(f"--{name.replace('_', '-')}" for name in TARGETS)
EPISODES = 200
"""That dials are tried on where the user does not say; of chains so many that they have as many subtasks."""
SIDE_BY_SIDE = 32
"""Episodes in one batch where the user does not say."""


def target_of(settings: CalibrateConfig) -> Target | None:
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
        ConfigError: If the settings do not name exactly one target, or one of more layers than there are.
    """
    target = target_of(workspace.config.calibrate)
    if target is None:
        raise ConfigError("expected a target, found none", hint=f"one of {FLAGS}")
    check_within(workspace.config.calibrate.target_layers, workspace.backbone.load().spec.num_layers)
    return calibrate_to(workspace, workspace.config.calibrate.method, target, resume=resume, progress=progress)


def check_within(target_layers: float | None, num_layers: int, first_exit: int = 0) -> None:
    """Before anything is played.

    Raises:
        ConfigError: If the target is more layers than the model has, or fewer than there are before ``first_exit``.
    """
    if target_layers is not None and target_layers < first_exit:
        raise ConfigError(
            f"{target_layers:g} layers: the first exit stands behind {first_exit}",
            hint=f"--target-layers above {first_exit}, or an earlier exit: --set distill.exits=[...]",
        )
    if target_layers is not None and target_layers > num_layers:
        raise ConfigError(
            f"{target_layers:g} layers: the model has {num_layers}", hint=f"--target-layers below {num_layers}"
        )


def calibrate_to(
    workspace: Workspace, method: str, target: Target, *, resume: bool, progress: Progress
) -> dict[str, Any]:
    """:func:`set_to_target` for the bundle that stands in the run; the result is kept there."""
    bundle = workspace.run.bundle(method)
    with workspace.training():
        document = set_to_target(workspace, method, target, bundle, resume=resume, progress=progress)
        keep_calibration(workspace, document)
    return document


def set_to_target(
    workspace: Workspace, method: str, target: Target, bundle: Path, *, resume: bool, progress: Progress
) -> dict[str, Any]:
    """Find ``method``'s dial for ``target``, write it into the bundle ``bundle``, and return the result's document.

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
    recipe, asked = replace(workspace.policies([]), bundles={method: bundle}), workspace.config.calibrate
    recipe.assets()
    stage = Stage(
        workspace.suite,
        workspace.suite.episodes("tune", asked.episodes or with_subtasks(workspace.suite, EPISODES)),
        _folder(workspace),
        resume,
        asked.workers,
        asked.batch or SIDE_BY_SIDE,
        progress,
    )
    _forget_others(stage.out, method, recipe, resume=resume)
    found = find_dial(ClosedLoop(method, recipe, stage), (dial.low, dial.high), target)
    _check_reached(method, found)
    save_dial(bundle, found, stage, SkipProfile.load(recipe.skip_profile).suite)
    return {**_document(method, found, stage), "meaning": dial.meaning, "bundle_path": str(bundle), "figures": {}}


def _forget_others(folder: Path, method: str, recipe: PolicyRecipe, *, resume: bool) -> None:
    """Of what was played in ``folder``, ``resume`` goes on with all of this training, whatever was asked for then."""
    trials = [tried for tried in (folder / method).glob(f"{DIAL_FOLDER}*") if tried.is_dir()]
    dials = {tried: float(tried.name.removeprefix(DIAL_FOLDER)) for tried in trials}
    told = {tried: replace(recipe, dial=dial).about([method]) for tried, dial in dials.items()}
    for played, now in {folder / BASELINE: recipe.about([BASELINE]), **told}.items():
        then = read_json(played / MANIFEST)["about"] if resume and (played / MANIFEST).exists() else {}
        if any(then.get(key) != now.get(key) for key in ("seed", f"{method}_settings")):
            shutil.rmtree(played, ignore_errors=True)


def keep_calibration(workspace: Workspace, document: dict[str, Any]) -> None:
    """Write the document of :func:`set_to_target` into the run."""
    workspace.keep(f"calibrate-{document['method']}", document, _folder(workspace) / document["method"])


def _folder(workspace: Workspace) -> Path:
    return workspace.run.path / "calibrate"


def calibratable() -> list[str]:
    """The methods with a dial and a bundle of their own."""
    return [name for name in methods.names() if methods.method(name).dial and methods.method(name).bundle == name]


def _check_reached(method: str, found: Found) -> None:
    """What no dial reaches is an error; a number of layers or milliseconds between two steps of the dial is not."""
    if found.met:
        return
    layers = [outcome.layers for outcome in found.tried.values()]
    low, high = min(layers), max(layers)
    match found.target:
        case TargetLayers(asked):
            _check_between(asked, low, high, "layers", method)
        case TargetMs(asked):
            each = (found.ms or 0.0) / (found.outcome.layers or 1.0)
            _check_between(asked, low * each, high * each, "ms", method)
        case MaxSuccessDrop():
            raise ConfigError(
                f"{found.target}: '{method}' loses {found.drop} even at {high:.2f} layers",
                hint="allow a larger drop, or more --episodes if the interval is wide",
            )


def _check_between(asked: float, low: float, high: float, unit: str, method: str) -> None:
    for beyond, how, end, hint in (asked >= high, "at most", high, "below"), (asked <= low, "at least", low, "above"):
        if beyond:
            raise ConfigError(
                f"{asked:g} {unit}: '{method}' takes {how} {end:.2f} {unit} on these episodes",
                hint=f"--target-{unit} {hint} {end:.2f}",
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
        "layers_per_inference_se": outcome.layers_se,
        "successes": outcome.successes,
        "success_rate": outcome.successes / outcome.episodes,
        "success_ci95": wilson(outcome.successes, outcome.episodes),
        "success_drop_pp": None if found.drop is None else found.drop.points,
        "success_drop_pp_ci95": None if found.drop is None else (found.drop.low, found.drop.high),
        "llm_ms": found.ms,
        "tried": [{"dial": dial, **asdict(tried)} for dial, tried in sorted(found.tried.items())],
    }
