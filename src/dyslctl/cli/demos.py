"""``dyslctl demos``: a suite's scripted expert acts -> a data set that ``--data`` reads."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from dyslctl.cli.options import AsJson, Debug, EpisodeTimeout, Quiet, Resume, complete_suites


class Formats(StrEnum):
    """What ``--format`` takes."""

    LEROBOT = "lerobot"
    HDF5 = "hdf5"
    CALVIN = "calvin"


class Splits(StrEnum):
    """What ``--split`` takes: never the episodes that results are reported on."""

    TRAIN = "train"
    TUNE = "tune"


def demos(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="Task suite plugin.", autocompletion=complete_suites)],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The data set; a new folder.")],
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="Solved demonstrations, tasks in turn.")] = 100,
    format_: Annotated[
        Formats, typer.Option("--format", help="LeRobot 3.0 (parquet), LIBERO's HDF5 files, or CALVIN's npz files.")
    ] = Formats.LEROBOT,
    split: Annotated[Splits, typer.Option("--split", help="Of the initial states.")] = Splits.TRAIN,
    image_quality: Annotated[
        int | None,
        typer.Option("--image-quality", min=1, max=100, help="Of JPEG; default: PNG, without loss."),
    ] = None,
    keep_noops: Annotated[
        bool, typer.Option("--keep-noops", help="Also steps without motion that leave the gripper as it is.")
    ] = False,
    disturb: Annotated[
        float | None,
        typer.Option(
            "--disturb",
            metavar="SHARE",
            help="Push the robot during this share of the steps, such as 0.15: what is recorded is how the expert "
            "finds back.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
    episode_timeout: EpisodeTimeout = None,
    resume: Resume = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write demonstrations of a suite's scripted expert as a data set.

    Only what the expert solved is kept; a state that it does not solve is replaced by the next one of its task. The
    same command makes the same files, whatever the number of workers. profile, distill and calibrate read them with
    --data DIR.
    """
    from dyslctl import plugins
    from dyslctl.cli.output import note, show
    from dyslctl.cli.progress import progress
    from dyslctl.data.encoding import ImageCoding
    from dyslctl.jobs.demo_disturbance import Disturbance
    from dyslctl.jobs.demos import NOOP_THRESHOLD, DemoSettings, record

    acting = plugins.load_suite(suite)
    settings = DemoSettings(
        split=split.value,
        format=format_.value,
        coding=ImageCoding(image_quality),
        noop_threshold=None if keep_noops else NOOP_THRESHOLD,
        disturbance=None if disturb is None else Disturbance(disturb),
    )
    for task in acting.tasks:
        if task not in acting.demonstrated_tasks:
            note(f"skipped: {task} (the expert has no skill for it)", quiet=quiet)
    with progress(quiet=quiet) as listener:
        how: dict[str, Any] = {"workers": workers, "episode_timeout": episode_timeout, "resume": resume}
        about = record(acting, out, episodes, settings, progress=listener, **how)
    document: dict[str, Any] = {**about, "path": str(out), "megabytes": _megabytes(out)}
    show(document, as_json=as_json)


def _megabytes(folder: Path) -> float:
    return round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6, 3)
