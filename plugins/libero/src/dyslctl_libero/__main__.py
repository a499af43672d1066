"""``python -m dyslctl_libero``: install the simulator, look at a frame of it, and see what the expert can do."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from dyslctl import plugins
from dyslctl.artifacts.files import atomic_path
from dyslctl.cli.command import Command
from dyslctl.errors import ConfigError, EnvironmentMismatch, NotInstalled
from dyslctl.jobs.demo_disturbance import Disturbance
from dyslctl.suite import EpisodeSpec, Split
from dyslctl_libero import assets, golden
from dyslctl_libero.initial_states import FIXTURES, draw_fixture_poses
from dyslctl_libero.installation import REQUIREMENTS, choose_graphics, missing_library, missing_packages, prepare
from dyslctl_libero.settings import SETUP, Settings
from dyslctl_libero.suite import LiberoEnvironment
from dyslctl_libero.tasks import TASKS, SuiteName, episode

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.command(cls=Command)
def setup(
    frame: Annotated[
        Path | None, typer.Option(help="Where to write the first rendered frame; by default into the cache.")
    ] = None,
) -> None:
    """Install the pinned simulator beside this package, fetch the scene files, and render a frame.

    No package's own dependency list is followed: they would replace torch and fill 7 GB.
    """
    settings = Settings.of()
    if missing_packages():
        _install()
    if problems := missing_library(choose_graphics()):
        raise NotInstalled("a system library is missing", hint="; ".join(problems))
    assets.fetch(settings)
    render("libero_object", 0, frame or settings.cache / "frame.png")


@app.command(cls=Command)
def render(suite: str = "libero_object", index: int = 0, out: Path = Path("libero.png")) -> None:
    """Write both views of a tune episode's first frame, side by side."""
    name = _suite(suite)
    settings = Settings.of()
    environment = LiberoEnvironment(name, settings, prepare(settings))
    views = environment.reset(episode(name, "tune", index)).painted().images.values()
    environment.close()
    with atomic_path(out) as path:
        Image.fromarray(np.concatenate(list(views), axis=1)).save(path, "PNG")
    typer.echo(f"{out}: episode {index} of {suite}, {settings.renderer} renderer, {choose_graphics()}")


@app.command(cls=Command)
def expert(
    suite: str = "libero_object",
    episodes: Annotated[int, typer.Option(min=1)] = 100,
    split: Split = "test",
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    disturb: Annotated[float | None, typer.Option(help="Share of the steps during which something pushes it.")] = None,
) -> None:
    """How many initial states the scripted expert solves, task by task. It was tuned on `train` alone."""
    specs = plugins.load_suite(_suite(suite)).demonstrated_episodes(split, episodes)
    specs = sorted(specs, key=lambda spec: spec.task)  # a process keeps the scene of one task
    play = partial(_demonstrated, disturbance=None if disturb is None else Disturbance(disturb))
    solved, actions = defaultdict[str, list[float]](list), list[int]()
    with ProcessPoolExecutor(workers) as pool:
        for spec, (score, steps) in zip(specs, pool.map(play, specs, chunksize=10), strict=True):
            solved[spec.task].append(score)
            actions.append(steps)
    for task, scores in solved.items():
        typer.echo(f"{sum(scores):.0f} of {len(scores)}  {task}")
    total = sum(map(sum, solved.values()))
    typer.echo(f"{total:.0f} of {len(specs)} initial states of {suite}, {np.mean(actions):.0f} actions in the mean")


@app.command(cls=Command)
def golden_frames() -> None:
    """Show the mean colours of each suite's golden frame, as they stand in ``golden.REFERENCES``."""
    settings = Settings.of()
    typer.echo(f"scene files {assets.fingerprint(assets.locate(settings))}")
    for suite in TASKS:
        typer.echo(f"{suite}: {golden.frame_means(suite, settings)}")


@app.command(cls=Command)
def record_fixtures(out: Path = FIXTURES) -> None:
    """Draw again where the fixtures of all official trials stand: a minute of physics."""
    poses = draw_fixture_poses(prepare(Settings.of()))
    with atomic_path(out) as path, path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **poses)
    typer.echo(f"{out}: {len(poses)} fixtures")


def _demonstrated(spec: EpisodeSpec, disturbance: Disturbance | None) -> tuple[float, int]:
    suite = plugins.load_suite(spec.suite)
    shown = suite.demonstrate_disturbed(spec, disturbance.of(spec)) if disturbance else suite.demonstrate(spec)
    return shown.score, len(shown.actions)


def _suite(name: str) -> SuiteName:
    for suite in TASKS:
        if suite == name:
            return suite
    raise ConfigError(f"--suite: expected one of {', '.join(TASKS)}, found '{name}'")


def _install() -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "-r", str(REQUIREMENTS)], check=False)
    if done.returncode != 0:
        raise EnvironmentMismatch(
            f"pip could not install the simulator (exit code {done.returncode})", hint=f"see above, then {SETUP}"
        )


if __name__ == "__main__":
    app()
