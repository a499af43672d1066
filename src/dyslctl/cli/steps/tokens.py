"""Which visual tokens stay through one episode."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from dyslctl import methods
from dyslctl.analysis.tokens import Trace, trace
from dyslctl.cli.steps.study import about, keep, one_method
from dyslctl.cli.workspace import Workspace
from dyslctl.errors import ConfigError
from dyslctl.report.figures.tokens import figure

STUDY = "tokens"
AVERAGED = ("kept_first", "kept", "recall_first", "recall", "carried")


def run_tokens(workspace: Workspace) -> dict[str, Any]:
    """Play the episode, save everything, and return the result's document.

    Raises:
        ConfigError: If the method prunes no tokens, or the layers see no visual ones.
        ArtifactError: If its bundle is missing.
    """
    settings, suite, method = workspace.config.analyze, workspace.suite, one_method(workspace, "specprune")
    if not methods.method(method).prunes:
        known = ", ".join(name for name in methods.names() if methods.method(name).prunes)
        raise ConfigError(f"--method {method}: expected one that prunes tokens, such as {known}")
    spec = suite.episodes(settings.split, settings.episode + 1)[settings.episode]
    recipe = workspace.policies([method])
    found = trace(recipe.factory(method)(), suite, spec, workspace.config.pruning.settings())
    document = {**about(workspace, STUDY), "episodes": 1, "method": method, **_described(found)}
    document["pruning"] = asdict(workspace.config.pruning.settings())
    caption = f"Tokens that {method} retains in episode {spec.index} of {suite.name}, {spec.task}."
    inferences = [{k: v for k, v in moment.items() if k != "retained"} for moment in document["moments"]]
    rows = [{"table": "inferences", **row} for row in inferences]
    rows += [{"table": "layers", **row} for row in document["layers"]]
    return keep(workspace, STUDY, document, figure(document, found.frames), caption, rows)


def _described(found: Trace) -> dict[str, Any]:
    later = found.moments[1:] or found.moments
    mean, spread = found.entropies.mean(0), found.entropies.std(0)
    return {
        "episode": found.spec.index,
        "task": found.spec.task,
        "instruction": found.instruction,
        "solved": found.solved,
        "steps": found.steps,
        "tokens_per_view": list(found.tokens),
        "important": found.important,
        "means": {key: _mean([getattr(moment, key) for moment in later]) for key in AVERAGED},
        "moments": [asdict(moment) for moment in found.moments],
        "layers": [
            {"layer": layer, "entropy": float(mean[layer]), "entropy_sd": float(spread[layer])}
            for layer in range(len(mean))
        ],
        "uniform_entropy": math.log(sum(found.tokens)),
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
