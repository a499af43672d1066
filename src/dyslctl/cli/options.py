"""The options that several commands share, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dyslctl import plugins
from dyslctl.cli.config import Layer, flags
from dyslctl.errors import ConfigError

COMMON, WHAT, TARGET = "Common options", "What to run on", "Target (one of them)"


def _backbones(incomplete: str) -> list[str]:
    return [name for name in plugins.names(plugins.BACKBONES) if name.startswith(incomplete)]


def complete_devices(incomplete: str) -> list[str]:
    """Device names that begin with ``incomplete``."""
    from dyslctl.devices.presets import device_names

    return [name for name in device_names() if name.startswith(incomplete)]


def complete_suites(incomplete: str) -> list[str]:
    """Task suites whose names begin with ``incomplete``."""
    return [name for name in plugins.names(plugins.SUITES) if name.startswith(incomplete)]


BackboneName = Annotated[
    str | None,
    typer.Argument(metavar="BACKBONE", help="Backbone plugin; default: the current run's.", autocompletion=_backbones),
]
Checkpoint = Annotated[
    str | None,
    typer.Option("--checkpoint", help="Folder or Hub id; default: the plugin's own.", rich_help_panel=WHAT),
]
Suite = Annotated[
    str | None,
    typer.Option("--suite", help="Task suite plugin.", autocompletion=complete_suites, rich_help_panel=WHAT),
]
Suites = Annotated[
    list[str] | None,
    typer.Option(
        "--suite",
        metavar="A,B",
        help="Task suite plugins, separated by commas; also repeatable.",
        autocompletion=complete_suites,
        rich_help_panel=WHAT,
    ),
]
RunName = Annotated[
    str | None,
    typer.Option(
        "--run", help="Run directory, or its name under runs/; default: the current run.", rich_help_panel=COMMON
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document instead of a table.", rich_help_panel=COMMON),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML with any of the settings.", rich_help_panel=COMMON),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="One setting, e.g. eval.episodes=50. Repeatable.", rich_help_panel=COMMON
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.", rich_help_panel=COMMON)]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.", rich_help_panel=COMMON)]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of everything random.", show_default=False)]
Workers = Annotated[
    int | None,
    typer.Option("--workers", help="Processes; with more than one, latencies do not compare.", show_default=False),
]
EpisodeTimeout = Annotated[
    float | None,
    typer.Option(
        "--episode-timeout",
        metavar="SECONDS",
        help="Stop an episode that takes longer; it is played again, and then an error. Default: none.",
    ),
]
ExecutorName = Annotated[
    str | None,
    typer.Option(
        "--executor", metavar="local|ray", help="Where the workers are; default: on this machine.", show_default=False
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted command.")]
FailIf = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-if", metavar="CONDITION", help="Exit 5 if it holds, e.g. 'dysl.success_rate < 0.9'. Repeatable."
    ),
]
Summary = Annotated[
    Path | None,
    typer.Option("--summary", metavar="FILE", help="Append the result as Markdown, e.g. to $GITHUB_STEP_SUMMARY."),
]
Methods = Annotated[
    list[str] | None,
    typer.Option("--method", metavar="A,B", help="Methods, separated by commas; also repeatable."),
]
OneMethod = Annotated[str | None, typer.Option("--method", metavar="NAME", help="Which method.", show_default=False)]
TestEpisodes = Annotated[
    int | None,
    typer.Option(
        "--episodes", help="Test episodes, the same initial states for everything; default 100.", show_default=False
    ),
]


def _points(text: str) -> float:
    """``"1pp"`` or ``"1"`` -> 1.0; a percent sign could mean one percent of the success, and is refused."""
    try:
        return float(text.removesuffix("pp"))
    except ValueError:
        raise typer.BadParameter(f"expected percentage points such as 1pp or 0.5pp, found {text!r}") from None


TargetLayers = Annotated[
    float | None,
    typer.Option(
        "--target-layers", help="Mean executed layers an inference, re-predictions counted.", rich_help_panel=TARGET
    ),
]
TargetMs = Annotated[
    float | None,
    typer.Option(
        "--target-ms", help="Milliseconds of the layers of an inference, batch 1, here.", rich_help_panel=TARGET
    ),
]
MaxSuccessDrop = Annotated[
    float | None,
    typer.Option(
        "--max-success-drop",
        metavar="1pp",
        parser=_points,
        help="Fewest layers that lose at most so many points of the full model's success; of chains, subtasks.",
        rich_help_panel=TARGET,
    ),
]
SideBySide = Annotated[
    int | None,
    typer.Option(
        "--batch", help="Episodes side by side in each process, computed together; default 32.", show_default=False
    ),
]


VISITORS = ("expert", "policy")
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="PATH|ID",
        help="Recorded episodes: a folder (LeRobot, LIBERO hdf5, CALVIN) or a Hub id ORG/NAME[@REVISION]. Or 'expert' "
        "or 'policy': who visits the states of the suite.",
        rich_help_panel=WHAT,
    ),
]
HeldOut = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="PATH|ID",
        help="Recorded episodes, as in distill: set dysl's tolerance offline, on those held out, without a simulator.",
        rich_help_panel=WHAT,
    ),
]
DataMap = Annotated[
    str | None,
    typer.Option(
        "--data-map",
        metavar="PRESET|FILE",
        help="Which column of --data is what: a preset or a YAML file; default: by the format.",
        rich_help_panel=WHAT,
    ),
]
ExecuteHorizon = Annotated[
    int | None,
    typer.Option(
        "--execute-horizon",
        help="Actions the robot executes before the next inference; default: as many as the suite or --data says.",
        show_default=False,
        rich_help_panel=WHAT,
    ),
]


def data_flags(command: str, data: str | None, data_map: str | None, execute_horizon: int | None) -> Layer:
    """The settings that ``--data`` and its companions are: ``expert`` and ``policy`` lead back to the simulator."""
    if data in VISITORS:
        return flags(**{f"{command}__data": data, "data": {"path": None}}, execute_horizon=execute_horizon)
    return flags(data__path=data, data__map=data_map, execute_horizon=execute_horizon)


def split_names(values: list[str] | None) -> list[str] | None:
    """``["a,b", "c"]`` -> ``["a", "b", "c"]``; ``None`` if the option was not given, empty if it names nothing."""
    if not values:
        return None
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


def split_numbers(text: str | None, option: str) -> list[float] | None:
    """``"5,5.5"`` -> ``[5.0, 5.5]``; ``None`` if the option was not given.

    Raises:
        ConfigError: If it names anything but numbers.
    """
    names = split_names(None if text is None else [text])
    if names is None:
        return None
    try:
        return [float(name) for name in names]
    except ValueError:
        raise ConfigError(f"{option}: expected numbers separated by commas, found {text!r}") from None


def split_whole(text: str | None, option: str) -> list[float | int] | None:
    """:func:`split_numbers`, whole numbers as such; the settings refuse the others."""
    values = split_numbers(text, option)
    return None if values is None else [int(value) if value.is_integer() else value for value in values]
