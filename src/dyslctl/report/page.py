"""The report of a run: its stored results, gathered, summarised on top, with their figures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dyslctl.artifacts.bundle import SETTINGS
from dyslctl.artifacts.files import atomic_write, read_json, sha256
from dyslctl.artifacts.run_dir import RESULTS, RunDirectory
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.errors import ArtifactError
from dyslctl.report.cells import interval, number, percent
from dyslctl.report.html import Figure, Link, Section, render
from dyslctl.report.results import tables
from dyslctl.report.studies import STUDIES
from dyslctl.report.tables import Column, Table

Document = dict[str, Any]
TEXTS = {
    "profile": "How little each layer changes the hidden state. The static layers change it most and always run.",
    "distill": "Adapters learn to stand in for skipped layers (stage 1), then what decides learns when they can "
    "(stage 2). Backbone and head stay frozen.",
    "calibrate": "A method's dial, set to a budget. Dials were tried on the same tune episodes until one met it.",
    "eval": "Every method starts from the same initial states. Executed layers include those of re-predictions.",
    "suites": "The same methods on several suites, beside what the papers print for the published models.",
    "pareto": "Every method at several numbers of layers, from several trainings. Dials were found on tune "
    "episodes; all points are from the same test episodes.",
    "ablation": "One thing at a time is changed. Every cell plays the same test episodes, and the reference is "
    "compared with each of the others.",
    "bench": "One inference at batch 1. Measured methods are interleaved in one process; predictions come from a "
    "roofline model with the error band shown.",
    **{name: study.text for name, study in STUDIES.items()},
}
TITLES = {
    "profile": "Profile",
    "distill": "Distillation",
    "calibrate": "Calibration",
    "eval": "Evaluation",
    "suites": "Suites",
    "pareto": "Success against layers",
    "ablation": "Ablations",
    "bench": "Latency",
    **{name: study.title for name, study in STUDIES.items()},
}


@dataclass(frozen=True)
class Results:
    """Every result a run holds, in the order of the work."""

    run: RunDirectory
    documents: Sequence[Document]

    def of(self, kind: str) -> list[Document]:
        """The results of one command."""
        return [document for document in self.documents if document["schema"].startswith(f"dyslctl.{kind}/")]


def gather(run: RunDirectory) -> Results:
    """Read the results of ``run`` that belong to its skip profile; those of an earlier profile are left out.

    Raises:
        ArtifactError: If there are none, or a file is damaged.
    """
    patterns = ("result.json", "*/*/result.json", "analysis/*/*/result.json")
    files = [file for pattern in patterns for file in sorted(run.path.glob(pattern))]
    documents = [read_json(file) for file in files]
    if not documents:
        raise ArtifactError(f"{run.path} holds no result yet", hint="dyslctl profile makes the first one")
    current = SkipProfile.load(run.skip_profile).hash
    fresh = [document for document in documents if document.get("profile_hash") == current]
    if not fresh:
        raise ArtifactError(
            f"{run.path}: all {len(documents)} results belong to another skip profile than its {run.skip_profile.name}",
            hint="dyslctl distill, eval and bench make new ones; dyslctl profile brings the measured profile back",
        )
    return Results(run, sorted(fresh, key=lambda document: RESULTS.index(_kind(document))))


def summary(results: Results) -> Table:
    """One row a method: success on the run's suite, or the last there is, and latency of every device.

    Only what was played and timed with the bundles as they are now: numbers of two bundles do not belong in one row.
    """
    old = [document for document in (*results.of("eval"), *results.of("bench")) if _is_old(results.run, document)]
    evaluations = [document for document in results.of("eval") if document not in old]
    evaluations.sort(key=lambda document: document["suite"] == results.run.manifest().suite)
    benches = [document for document in results.of("bench") if document not in old]
    columns = [Column("method", numeric=False)]
    if evaluations:
        columns += [Column(f"success on {evaluations[-1]['suite']}"), Column("95 % interval"), Column("layers run")]
    for bench in benches:
        columns += [Column(f"LLM ms on {bench['device']}, {bench['source']}"), Column("speedup")]
    names = dict.fromkeys(
        [name for document in evaluations[-1:] for name in document["methods"]]
        + [row["method"] for bench in benches for row in bench["rows"] if row["source"] == bench["source"]]
    )
    rows = [
        [name, *[cell for document in evaluations[-1:] for cell in _success(document, name)]]
        + [cell for bench in benches for cell in _latency(bench, name)]
        for name in names
    ]
    notes = [f"{document['episodes']} paired episodes, split {document['split']}" for document in evaluations[-1:]]
    where = [f"{_kind(document)} on {document.get('suite') or document['device']}" for document in old]
    notes += [f"not here, since a bundle has changed: {', '.join(where)}"] if old else []
    return Table("Summary", columns, rows, notes)


def html(results: Results, folder: Path) -> str:
    """The whole report as one HTML document, to be put into ``folder``.

    Raises:
        ArtifactError: If a figure is missing.
    """
    sections = [Section("Summary", "All methods side by side.", [summary(results)])]
    for kind in RESULTS:
        documents = results.of(kind)
        if documents:
            shown = [table for document in documents for table in tables(document)]
            figures = [figure for document in documents for figure in _figures(results.run, document)]
            videos = [link for document in documents for link in _videos(results.run, document, folder)]
            sections.append(Section(TITLES[kind], TEXTS[kind], shown, figures, videos))
    environment = results.documents[-1]["environment"]
    commands = list(dict.fromkeys(document["command"] for document in results.documents))
    return render(
        f"dyslctl report: {results.run.name}",
        sections,
        commands,
        {name.replace("_", " "): str(value) for name, value in environment.items()},
    )


def write_report(results: Results, output: Path | None = None) -> Path:
    """Write the HTML file; by default into the run.

    Raises:
        ArtifactError: If a figure is missing.
        EnvironmentMismatch: If it cannot be written.
    """
    path = output or results.run.report / "report.html"
    atomic_write(path, html(results, path.parent))
    return path


def _kind(document: Document) -> str:
    return str(document["schema"]).removeprefix("dyslctl.").partition("/")[0]


def _is_old(run: RunDirectory, document: Document) -> bool:
    """Whether a bundle that ``document`` was made with has been trained or calibrated anew since, or is gone."""
    files = {run.bundle(method) / SETTINGS: digest for method, digest in document.get("bundles", {}).items()}
    return any(not file.exists() or sha256(file) != digest for file, digest in files.items())


def _figures(run: RunDirectory, document: Document) -> list[Figure]:
    # By name below the run: its stored paths are those of the machine and folder that made it.
    return [Figure(run.report / Path(path).name, caption) for caption, path in document["figures"].items()]


def _videos(run: RunDirectory, document: Document, folder: Path) -> list[Link]:
    paths = [PurePosixPath(video) for video in document.get("videos", ())]
    return [
        Link(os.path.relpath(run.path / path, folder), f"{document['suite']}, {path.parent.name}: {path.stem}")
        for path in paths
    ]


def _success(document: Document, name: str) -> list[str]:
    found = document["methods"].get(name)
    if found is None:
        return ["", "", ""]
    return [percent(found["success_rate"]), interval(found["success_ci95"]), number(found["mean_layers_run"], 2)]


def _latency(document: Document, name: str) -> list[str]:
    for row in document["rows"]:
        if row["method"] == name and row["source"] == document["source"]:
            return [number(row.get("llm_ms_mean", row["llm_ms_p50"]), 2), f"{row['speedup']:.2f} x"]
    return ["", ""]
