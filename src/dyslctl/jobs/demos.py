"""Demonstrations of a suite's scripted expert as a data set.

Two steps, each of which may be interrupted. Workers let the expert act, and leave each solved episode in a file of its
own below ``<out>.partial``, where ``outcomes.jsonl`` says how each initial state ended. When all are there they are put
together in the order of their initial states, whoever played them when, and the data set takes its place in one go.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dyslctl import __version__
from dyslctl.artifacts.files import (
    atomic_folder,
    atomic_write,
    make_folder,
    read_json,
    replace_folder,
    write_json,
    writing,
)
from dyslctl.artifacts.lock import locked
from dyslctl.artifacts.manifest import check_same
from dyslctl.artifacts.strict_yaml import dump_yaml
from dyslctl.data.calvin_writer import write_calvin
from dyslctl.data.encoding import PNG, ImageCoding
from dyslctl.data.episode_file import RecordedEpisode
from dyslctl.data.hdf5_writer import write_hdf5
from dyslctl.data.lerobot_writer import write_lerobot
from dyslctl.data.mapping import BESIDE, DataMap, Gripper
from dyslctl.errors import ConfigError, DyslctlError, PluginError
from dyslctl.jobs.crew import Died, Player
from dyslctl.jobs.demo_disturbance import Disturbance
from dyslctl.jobs.demo_draw import Draw
from dyslctl.jobs.demo_outcomes import Outcome, Outcomes
from dyslctl.jobs.processes import play_in_processes
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.jobs.workers import Placement
from dyslctl.suite import Demonstration, EpisodeSpec, Split, TaskSuite

SCHEMA = "dyslctl.demos/1"
ABOUT = "demos.json"
"""In the finished data set: what it is, and how each task went."""
NOOP_THRESHOLD = 1e-4
"""Of the released OpenVLA-OFT data; see :meth:`dyslctl.data.mapping.DataMap.kept`."""

Format = Literal["lerobot", "hdf5", "calvin"]
Writer = Callable[[Path, Iterable[RecordedEpisode]], DataMap]
"""Writes episodes into an empty folder, and tells which column is what."""


@dataclass(frozen=True)
class DemoSettings:
    """What becomes of a demonstration.

    Attributes:
        split: Initial states; never those that results are reported on.
        format: LeRobot 3.0, LIBERO's HDF5 files, or CALVIN's layout.
        coding: How images are stored; LeRobot alone leaves it open.
        noop_threshold: Steps are dropped that move by less and leave the gripper as it is; ``None`` keeps all.
        disturbance: What pushes the robot meanwhile; ``None``: nothing.
    """

    split: Split = "train"
    format: Format = "lerobot"
    coding: ImageCoding = PNG
    noop_threshold: float | None = NOOP_THRESHOLD
    disturbance: Disturbance | None = None

    def __post_init__(self) -> None:
        if self.split == "test":
            raise ConfigError("--split: results are reported on 'test' episodes; learn from those of 'train'")
        if self.format != "lerobot" and self.coding.quality is not None:
            raise ConfigError(f"--image-quality: --format {self.format} has images without loss", "--format lerobot")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        images = {"coding": self.coding.name, "quality": self.coding.quality}
        return {
            "split": self.split,
            "format": self.format,
            "images": images,
            "noop_threshold": self.noop_threshold,
            "disturbance": self.disturbance and asdict(self.disturbance),
        }


def record(
    suite: TaskSuite,
    out: Path,
    episodes: int,
    settings: DemoSettings,
    *,
    workers: int = 1,
    episode_timeout: float | None = None,
    resume: bool = False,
    progress: Progress = NO_PROGRESS,
) -> dict[str, Any]:
    """Write a data set of ``episodes`` solved demonstrations, tasks in turn, to the new folder ``out``.

    Args:
        suite: Whose expert acts.
        out: The data set. What is not finished is in its neighbour ``<out>.partial``.
        episodes: How many; an initial state that the expert does not solve, or that cannot be played, is replaced by
            the next one of its task.
        settings: What becomes of them. Equal settings give equal files.
        workers: Processes.
        episode_timeout: Seconds after which an episode is stopped. With one, or several workers, an episode that takes
            its process with it, or is stopped, is played again, and counted as an error if that does not help.
        resume: Go on with what ``<out>.partial`` holds, of as many episodes or fewer; otherwise it is started anew.
        progress: Listener; one piece is one solved demonstration.

    Returns:
        The content of ``demos.json``.

    Raises:
        ConfigError: If ``out`` is there already, or the format cannot hold the suite's episodes.
        ArtifactError: If ``<out>.partial`` is of another suite or other settings.
        EnvironmentMismatch: If another process records ``out``, it cannot be written, or workers die as they start.
        PluginError: If the suite has no expert, or its expert fails too often, or raises, or one episode after the
            other cannot be played.
    """
    place = Placement(workers, timeout=episode_timeout)
    _check_format(suite, settings)
    out, draw = out.resolve(), Draw(suite, settings.split, episodes)
    with locked(out.with_name(f"{out.name}.lock"), f"{out} is being recorded", "choose another --out"):
        return _record(suite, out, draw, settings, place, resume, progress)


def _check_format(suite: TaskSuite, settings: DemoSettings) -> None:
    """Before anything is played: can the format hold the suite's episodes?"""
    if settings.format == "calvin" and suite.gripper_open != 1:
        found = f"{suite.name} at {suite.gripper_open}"
        raise ConfigError(f"--format calvin: its files open the gripper at 1, {found}", hint="--format lerobot")
    if settings.format == "hdf5" and suite.max_score > 1:
        raise ConfigError(
            f"--format hdf5: expected one instruction an episode, found chains of {suite.max_score} in {suite.name}",
            hint="--format lerobot has one for each step",
        )


def _record(
    suite: TaskSuite, out: Path, draw: Draw, settings: DemoSettings, place: Placement, resume: bool, progress: Progress
) -> dict[str, Any]:
    """:func:`record`, alone."""
    manifest = _manifest(suite, settings)
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        return _finished(out, manifest, draw, resume)
    outcomes = Outcomes(out.with_name(f"{out.name}.partial"), manifest, resume)
    _play(_Recorder(suite, outcomes.folder, settings), draw, outcomes, place, progress)
    about = {**manifest, **_summary(suite, draw, outcomes)}
    _assemble(outcomes, draw.kept(outcomes.solved), _writer(suite, settings), about, out, progress)
    return about


def _writer(suite: TaskSuite, settings: DemoSettings) -> Writer:
    """What puts the episodes together; what only the suite knows of their columns is added to what it tells."""
    writers: dict[Format, Writer] = {
        "lerobot": partial(write_lerobot, fps=suite.control_frequency),
        "hdf5": write_hdf5,
        "calvin": write_calvin,
    }
    write = writers[settings.format]

    def written(root: Path, episodes: Iterable[RecordedEpisode]) -> DataMap:
        known = {"gripper": _gripper(suite), "execute_horizon": suite.execute_horizon}
        return write(root, episodes).model_copy(update=known)

    return written


def _gripper(suite: TaskSuite) -> Gripper:
    """Actions are recorded as they are executed."""
    return Gripper(open=suite.gripper_open, closed=-suite.gripper_open, executed_open=suite.gripper_open)


def _manifest(suite: TaskSuite, settings: DemoSettings) -> dict[str, Any]:
    """What the files depend on, but for their number; as it is read back."""
    about = {"suite": suite.name, **settings.as_dict(), "simulator": dict(suite.identity()), "dyslctl": __version__}
    manifest: dict[str, Any] = json.loads(json.dumps({"schema": SCHEMA, **about}))
    return manifest


def _finished(out: Path, manifest: Mapping[str, Any], draw: Draw, resume: bool) -> dict[str, Any]:
    """What is already there, if it is what is asked for."""
    if not resume or not (out / ABOUT).exists():
        raise ConfigError(
            f"{out}: expected a new folder, found one with files", hint="choose another --out, or remove it"
        )
    found = read_json(out / ABOUT)
    asked = {**manifest, "shares": draw.shares}
    shares = {task: went["episodes"] for task, went in found.get("tasks", {}).items()}
    there = {**{key: found.get(key) for key in manifest}, "shares": shares}
    check_same(there, asked, f"{out} is finished, and something else", hint="choose another --out")
    return found


def _play(recorder: _Recorder, draw: Draw, outcomes: Outcomes, place: Placement, progress: Progress) -> None:
    """Until every task has its share of solved episodes."""
    progress.start(sum(draw.shares.values()), "demonstrations")
    progress.advance(sum(outcomes.solved[spec.index] for spec in draw.tried(outcomes.solved)))
    try:
        while specs := draw.missing(outcomes.solved):
            with closing(_outcomes(recorder, specs, place)) as ended:
                for outcome in ended:
                    outcomes.add(outcome)
                    progress.advance(int(outcome.solved), failed=sum(each.failed for each in outcomes.of.values()))
    finally:
        progress.close()


def _outcomes(recorder: _Recorder, specs: Sequence[EpisodeSpec], place: Placement) -> Generator[Outcome]:
    if place.here:
        yield from (outcome for _, outcome in recorder(specs))
        return
    make_player = partial(_in_worker, recorder)
    with closing(play_in_processes(make_player, specs, place.workers, timeout=place.timeout)) as results:
        for spec, outcome in results:
            if isinstance(outcome, Died):
                yield Outcome(spec.index, spec.task, solved=False, error=f"the worker process {outcome.how}")
            else:
                yield outcome


def _in_worker(recorder: _Recorder) -> Player[EpisodeSpec, Outcome]:
    return recorder


class _Recorder:
    """Lets the expert act, and keeps what it solves."""

    def __init__(self, suite: TaskSuite, folder: Path, settings: DemoSettings) -> None:
        self._suite, self._folder, self._settings = suite, folder, settings
        self._columns = DataMap(action="action", gripper=_gripper(suite), noop_threshold=settings.noop_threshold)

    def __call__(self, specs: Sequence[EpisodeSpec]) -> Iterator[tuple[EpisodeSpec, Outcome]]:
        """How each of ``specs`` ended."""
        for spec in specs:
            yield spec, self._record(spec)

    def _record(self, spec: EpisodeSpec) -> Outcome:
        shown = self._demonstrate(spec)
        if shown.score < self._suite.max_score:
            return Outcome(spec.index, spec.task, solved=False)
        episode = RecordedEpisode.of(shown, self._columns, self._settings.coding)
        episode.save(Outcomes.file(self._folder, spec.index))
        return Outcome(spec.index, spec.task, solved=True, steps=len(episode), dropped=episode.dropped)

    def _demonstrate(self, spec: EpisodeSpec) -> Demonstration:
        try:
            disturbance = self._settings.disturbance
            if disturbance is None:
                return self._suite.demonstrate(spec)
            return self._suite.demonstrate_disturbed(spec, disturbance.of(spec))
        except DyslctlError:
            raise
        except Exception as error:
            raise PluginError(
                f"the expert crashed in episode {spec.index} ({spec.task}): {type(error).__name__}: {error}",
                hint="after the fix, --resume goes on",
            ) from error


def _summary(suite: TaskSuite, draw: Draw, outcomes: Outcomes) -> dict[str, Any]:
    """How each task went."""
    tried = [outcomes.of[spec.index] for spec in draw.tried(outcomes.solved)]
    return {
        "execute_horizon": suite.execute_horizon,
        "episodes": sum(outcome.solved for outcome in tried),
        "failed": sum(outcome.failed for outcome in tried),
        "errors": {str(outcome.index): outcome.error for outcome in tried if outcome.error is not None},
        "frames": sum(outcome.steps for outcome in tried),
        "dropped_frames": sum(outcome.dropped for outcome in tried),
        "skipped_tasks": [task for task in suite.tasks if task not in draw.shares],
        "tasks": {task: _of_task([outcome for outcome in tried if outcome.task == task]) for task in draw.shares},
    }


def _of_task(tried: Sequence[Outcome]) -> dict[str, int]:
    solved = [outcome for outcome in tried if outcome.solved]
    return {
        "episodes": len(solved),
        "failed": sum(outcome.failed for outcome in tried),
        "errors": sum(outcome.error is not None for outcome in tried),
        "frames": sum(outcome.steps for outcome in solved),
    }


def _assemble(
    outcomes: Outcomes, kept: Sequence[int], write: Writer, about: Mapping[str, Any], out: Path, progress: Progress
) -> None:
    """Put the ``kept`` episodes together, and the data set in its place."""

    def episodes() -> Iterator[RecordedEpisode]:
        for index in kept:
            yield outcomes.episode(index)
            progress.advance()

    progress.start(len(kept), "putting together")
    finished = outcomes.folder / "dataset"
    with atomic_folder(finished) as folder:
        columns = write(folder, episodes())
        atomic_write(folder / BESIDE, dump_yaml(columns.dump(), "Which column of this data set is what.\n"))
        write_json(folder / ABOUT, about)
    progress.close()
    make_folder(out.parent)
    with writing(out):
        replace_folder(finished, out)
    shutil.rmtree(outcomes.folder, ignore_errors=True)
