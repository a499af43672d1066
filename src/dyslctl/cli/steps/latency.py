"""Where the time of an inference goes, in closed loop."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dyslctl import methods
from dyslctl.analysis.latency import breakdown
from dyslctl.artifacts.fingerprint import environment
from dyslctl.cli.steps.study import about, keep
from dyslctl.cli.steps.timed import outcomes, timed_episodes
from dyslctl.cli.workspace import Workspace
from dyslctl.errors import ConfigError
from dyslctl.jobs.breakdown import pass_shares
from dyslctl.jobs.latency import demonstration_frames
from dyslctl.jobs.progress import Progress
from dyslctl.report.figures.latency import figure

STUDY = "latency"
FRAMES, EPISODES = 100, 6
"""That tell layers, controllers and adapters apart."""


def run_latency(workspace: Workspace, *, resume: bool, progress: Progress) -> dict[str, Any]:
    """Play the methods, save everything, and return the result's document.

    Raises:
        ConfigError: If there is no such method, or its time means nothing.
        ArtifactError: If a bundle is missing.
    """
    for name in workspace.config.analyze.methods or ():
        if methods.method(name).privileged:
            raise ConfigError(
                f"'{name}' knows what no robot knows: its time means nothing", hint=f"leave '{name}' out of --method"
            )
    result, recipe = timed_episodes(workspace, STUDY, resume=resume, progress=progress)
    frames = demonstration_frames(workspace.suite, EPISODES)
    policies = {name: recipe.factory(name)() for name in result.methods}
    pruning = {name for name in result.methods if methods.method(name).prunes}
    shares = pass_shares(policies, frames, FRAMES, pruning=pruning)
    rows = [
        breakdown(name, [record for record in result.records if record.method == name], shares[name])
        for name in result.methods
    ]
    document = {
        **about(workspace, STUDY),
        "machine": environment().cpu,
        "methods": outcomes(result),
        "breakdowns": [asdict(row) for row in rows],
    }
    caption = f"Where the time of one inference goes on {workspace.suite.name}, milliseconds (Fig. 10)."
    tidy = [{"method": row.method, "part": part, "ms": ms} for row in rows for part, ms in row.parts_ms.items()]
    tidy += [
        {"method": row.method, "part": "together", "ms": row.total_ms, "ms_low": low, "ms_high": high}
        for row in rows
        for low, high in [row.total_ms_ci95]
    ]
    return keep(workspace, STUDY, document, figure(document), caption, tidy)
