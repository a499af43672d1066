"""One table of an ablation: train the variants, fit what is fitted, play all cells on the same episodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dyslctl import methods
from dyslctl.artifacts.files import atomic_write
from dyslctl.artifacts.run_dir import RunDirectory
from dyslctl.cli.ablations import Cell, Table, load_table
from dyslctl.cli.config import merge, parse_set
from dyslctl.cli.steps.calibrate import SIDE_BY_SIDE
from dyslctl.cli.steps.pareto import point_document
from dyslctl.cli.steps.seeds import check_settings, trained_run
from dyslctl.cli.steps.variants import (
    Settings,
    fitted_part,
    fitted_run,
    folder_name,
    make_variant,
    trained_part,
    variant,
)
from dyslctl.cli.workspace import Workspace
from dyslctl.errors import ConfigError, DyslctlError, EnvironmentMismatch
from dyslctl.jobs.closed_loop import Stage
from dyslctl.jobs.crew import Died
from dyslctl.jobs.curves import Point, Setting, Splits, curves, full_model, measure_point
from dyslctl.jobs.executor import Executor
from dyslctl.jobs.pareto import INTERVALS, Pareto, pareto
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.jobs.summary import BASELINE
from dyslctl.report.ablation import csv_text, tables
from dyslctl.report.tables import to_markdown
from dyslctl.suite import Split

TUNE: Split = "tune"
TEST: Split = "test"
LAYERS_HINT = "--layers N sets every cell to N layers"


@dataclass(frozen=True)
class Task:
    """A piece of a sweep; each of a kind can be done beside the others.

    Attributes:
        kind: ``train`` and ``fit`` write into the run of a variant and a seed, ``play`` reads there.
        settings: The variant's.
        seed: Of the training; ``None`` for the full model.
        names: Bundles to train or fit, or the one method to play.
    """

    kind: Literal["train", "fit", "play"]
    settings: Settings
    seed: int | None
    names: tuple[str, ...]

    def __str__(self) -> str:
        where = "" if self.seed is None else f", {folder_name(self.settings)}, seed {self.seed}"
        return f"{self.kind} {', '.join(self.names)}{where}"


@dataclass(frozen=True)
class Sweep:
    """What a worker needs for any task.

    Attributes:
        workspace: Of the run that the cells are variants of.
        layers: That every cell is set to; ``None``: as trained.
        resume: Continue what was interrupted.
        workers: Processes side by side, of which this is one.
    """

    workspace: Workspace
    layers: float | None
    resume: bool
    workers: int
    progress: Progress = NO_PROGRESS

    @property
    def executor(self) -> Executor:
        """Where tasks are spread to."""
        config = self.workspace.config
        return Executor.of(config.ablation.executor, config.model.device)

    def __call__(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Point | None]]:
        """Each of ``tasks`` with its result: that of ``play`` is a point.

        Raises:
            DyslctlError: What goes wrong, with the task's name.
        """
        for task in tasks:
            try:
                yield task, self._do(task)
            except DyslctlError as error:
                raise type(error)(f"{task}: {error.message}", error.hint) from error

    def _do(self, task: Task) -> Point | None:
        if task.seed is None:
            return full_model(self.workspace.policies([]), self._stage(TEST, task))
        if task.kind == "play":
            return self._play(task, task.names[0], task.seed)
        trained = variant(self.workspace, trained_part(task.settings))
        source = _seed_folder(trained, task.seed)
        if task.kind == "train":
            trained_run(trained, source, task.seed, task.names, resume=self.resume, progress=self.progress)
        else:
            own = variant(self.workspace, task.settings)
            fitted_run(own, RunDirectory(source), _seed_folder(own, task.seed), task.names, self.progress)
        return None

    def _play(self, task: Task, name: str, seed: int) -> Point:
        own = variant(self.workspace, task.settings)
        config = own.config.model_copy(update={"seed": seed})
        # What needs no training has no folder of its own: the variant's skip profile is all it is built from.
        place = _seed_folder(own, seed) if methods.bundles([name]) else own.run.path
        run = replace(own, run=replace(own.run, path=place), config=config)
        recipe, test = run.policies([name]), self._stage(TEST, task)
        if self.layers is None:
            return measure_point(Setting(name), recipe, test, seed)
        (point, *_) = curves([name], recipe, [self.layers], Splits(self._stage(TUNE, task), test), seed)
        return point

    def _stage(self, split: Split, task: Task) -> Stage:
        own, settings = variant(self.workspace, task.settings), self.workspace.config.ablation
        folder = _out(self.workspace) / "episodes" / own.suite.name / folder_name(task.settings)
        return Stage(
            own.suite,
            own.suite.episodes(split, settings.tune_episodes if split == TUNE else settings.episodes),
            folder / ("full" if task.seed is None else f"seed{task.seed}") / split,
            self.resume,
            1,
            settings.batch or SIDE_BY_SIDE,
            self.progress,
        )


def run_ablation(workspace: Workspace, *, resume: bool, progress: Progress) -> dict[str, Any]:
    """Do all of it, save everything, and return the result's document.

    Raises:
        ConfigError: If there is no such table, or a cell names a method or a setting that is unknown.
        EnvironmentMismatch: If a run is being trained by another command, or a worker dies again and again.
    """
    settings = workspace.config.ablation
    name, table = load_table(settings.table)
    layers = settings.layers or _layers(table, workspace)
    for cell in table.cells:
        _check(cell, workspace, layers)
    refused = _make_variants(workspace, table, progress)
    cells = [cell for cell in table.cells if cell.name not in refused]
    if table.reference in refused:
        raise ConfigError(f"the reference '{table.reference}' cannot be made: {refused[table.reference]}")
    sweep = Sweep(workspace, layers, resume, settings.workers, progress)
    tasks = plays(cells, settings.seeds)
    with sweep.executor.session():
        for stretch in (trainings(cells, settings.seeds), fits(cells, settings.seeds)):
            _spread(sweep, stretch)
        played = _spread(sweep, list(dict.fromkeys(tasks.values())))
    points = [_named(played[task], cell) for (cell, _), task in tasks.items()]
    document = _document(workspace, name, table, layers, refused, points)
    out = _out(workspace) / f"{name}-{workspace.suite.name}"
    atomic_write(out / "table.csv", csv_text(document))
    atomic_write(out / "table.md", "\n".join(map(to_markdown, tables(document))))
    workspace.keep(f"ablation-{name}-{workspace.suite.name}", document, out)
    return document


def trainings(cells: Iterable[Cell], seeds: Sequence[int]) -> list[Task]:
    """One task for each run that is trained, with all the bundles it needs: no run is trained by two processes."""
    return _grouped("train", [(trained_part(cell.set), cell) for cell in cells], seeds)


def fits(cells: Iterable[Cell], seeds: Sequence[int]) -> list[Task]:
    """Likewise for each run whose bundles are copies of another's, fitted in its own way."""
    fitted = [(fitted_part(cell.set), cell) for cell in cells]
    return _grouped("fit", [(own, cell) for own, cell in fitted if own != trained_part(own)], seeds)


def _grouped(kind: Literal["train", "fit"], cells: Iterable[tuple[Settings, Cell]], seeds: Sequence[int]) -> list[Task]:
    needed: dict[Settings, dict[str, None]] = {}
    for settings, cell in cells:
        needed.setdefault(settings, {}).update(dict.fromkeys(methods.bundles([cell.method])))
    return [
        Task(kind, settings, seed, tuple(bundles)) for settings, bundles in needed.items() if bundles for seed in seeds
    ]


def plays(cells: Iterable[Cell], seeds: Sequence[int]) -> dict[tuple[str, int | None], Task]:
    """Cell and seed -> what is played for it; equal for cells that are set alike. The full model comes first."""
    full = {(BASELINE, None): Task("play", (), None, (BASELINE,))}
    return full | {(cell.name, seed): Task("play", cell.set, seed, (cell.method,)) for seed in seeds for cell in cells}


def _spread(sweep: Sweep, tasks: Sequence[Task]) -> dict[Task, Point | None]:
    """All of ``tasks``, in this process or in several."""
    if not tasks or (sweep.executor.kind == "local" and (sweep.workers == 1 or len(tasks) == 1)):
        return dict(sweep(tasks))
    progress, results = sweep.progress, dict[Task, Point | None]()
    progress.start(len(tasks), tasks[0].kind)
    make = partial(_worker, replace(sweep, progress=NO_PROGRESS))
    try:
        for task, result in sweep.executor.spread(make, tasks, min(sweep.workers, len(tasks))):
            if isinstance(result, Died):
                raise EnvironmentMismatch(
                    f"{task}: the worker {result.how}, each time",
                    hint="fewer --workers if memory is short, and --resume",
                )
            results[task] = result
            progress.advance()
    finally:
        progress.close()
    return results


def _worker(sweep: Sweep) -> Sweep:
    import torch

    torch.set_num_threads(1)
    return sweep


def _check(cell: Cell, workspace: Workspace, layers: float | None) -> None:
    """Before hours of training: does every name mean something?"""
    found = methods.method(cell.method)
    try:
        own = merge(list(map(parse_set, cell.set))).distill
        check_settings(own, methods.bundles([cell.method]))
        variant(workspace, cell.set)
    except ConfigError as error:
        raise ConfigError(f"cell '{cell.name}': {error.message}", error.hint) from error
    if layers is None and found.needs_target:
        raise ConfigError(f"cell '{cell.name}': '{cell.method}' must be told how many layers to run", hint=LAYERS_HINT)


def _make_variants(workspace: Workspace, table: Table, progress: Progress) -> dict[str, str]:
    """Profile what must be; the cells that this backbone cannot have, and why."""
    refused = {}
    for cell in table.cells:
        try:
            for settings in dict.fromkeys((trained_part(cell.set), fitted_part(cell.set))):
                make_variant(workspace, settings, progress)
        except ConfigError as error:
            refused[cell.name] = error.message
    return refused


def _layers(table: Table, workspace: Workspace) -> float | None:
    return None if table.share is None else table.share * workspace.backbone.load().spec.num_layers


def _seed_folder(workspace: Workspace, seed: int) -> Path:
    return workspace.run.path / "seeds" / f"seed{seed}"


def _out(workspace: Workspace) -> Path:
    return workspace.run.path / "analysis" / "ablation"


def _named(point: Point | None, cell: str) -> Point:
    assert point is not None
    return replace(point, setting=replace(point.setting, method=cell, label=""))


def _document(
    workspace: Workspace,
    name: str,
    table: Table,
    layers: float | None,
    refused: dict[str, str],
    points: Sequence[Point],
) -> dict[str, Any]:
    settings, backbone = workspace.config.ablation, workspace.backbone.load()
    found = pareto(points, table.reference)
    return {
        "schema": "dyslctl.ablation/1",
        "table": name,
        "title": table.title,
        "source": table.source,
        "suite": workspace.suite.name,
        "split": TEST,
        "episodes": settings.episodes,
        "tune_split": TUNE,
        "tune_episodes": None if layers is None else settings.tune_episodes,
        "layers": layers,
        "seeds": list(settings.seeds),
        "reference": table.reference,
        "num_layers": backbone.spec.num_layers,
        "max_score": workspace.suite.max_score,
        "batch": settings.batch or SIDE_BY_SIDE,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "intervals": INTERVALS,
        "cells": [_row(BASELINE, BASELINE, (), found), *(_cell(cell, refused, found) for cell in table.cells)],
        "points": [point_document(point) for point in points],
        "figures": {},
    }


def _cell(cell: Cell, refused: dict[str, str], found: Pareto) -> dict[str, Any]:
    if cell.name in refused:
        return {"name": cell.name, "method": cell.method, "set": list(cell.set), "refused": refused[cell.name]}
    return _row(cell.name, cell.method, cell.set, found)


def _row(name: str, method: str, settings: Settings, found: Pareto) -> dict[str, Any]:
    """A cell over all seeds, and how much better the reference is; nothing of that for the reference itself."""
    document = found.as_dict()
    pooled = next(point for point in document["pooled"] if point["method"] == name)
    better = next((pair["nearest"] for pair in document["matched"] if pair["rival"] == name), None)
    return {
        **pooled,
        "name": name,
        "method": method,
        "set": list(settings),
        "refused": None,
        "reference_better": better,
    }
