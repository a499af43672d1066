"""``dyslctl eval`` as a user runs it, in a process that starts others, with a simulator that dies."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dyslctl.artifacts.bundle import load_bundle

EVAL = ("eval", "--method", "full", "--episodes", "4")


def records() -> list[dict[str, Any]]:
    """The episodes of the run's evaluation, without timings."""
    lines = Path("runs/tiny/eval/tiny_reach/episodes.jsonl").read_text().splitlines()
    rows = [{key: value for key, value in json.loads(line).items() if not key.endswith("_ms")} for line in lines]
    return sorted(rows, key=lambda row: row["index"])


def test_a_simulator_that_dies_costs_no_more_than_its_episode(
    profiled: dict[str, Any], document: Callable[..., dict[str, Any]], mortal: Mapping[str, str]
) -> None:
    """An untrained policy fails, so that every episode but the one that always dies leaves a video."""
    how = ("--workers", "2", "--episode-timeout", "120", "--video", "failed", "--json", "--quiet")
    done = subprocess.run(
        [sys.executable, "-m", "dyslctl", *EVAL, *how], env=mortal, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    survived = records()
    assert [row["status"] for row in survived] == ["done", "done", "error", "done"]
    assert survived[2]["error"] == "the worker process died of signal 9 (Killed)"
    assert json.loads(done.stdout)["methods"]["full"]["errors"] == 1
    assert json.loads(done.stdout)["videos"] == [
        f"eval/tiny_reach/videos/full/{name}-failed.mp4" for name in ("reach_blue-1", "reach_blue-3", "reach_red-0")
    ]
    report = Path(document("report")["report_path"]).read_text()
    assert all(f'href="../{video}"' in report for video in json.loads(done.stdout)["videos"])

    assert list(Path("runs").rglob("*.tmp")) == []

    document(*EVAL)
    unharmed = records()
    assert [survived[index] for index in (0, 1, 3)] == [unharmed[index] for index in (0, 1, 3)]


@pytest.mark.parametrize(("option", "value"), [("--video", "some"), ("--episode-timeout", "0")])
def test_a_wrong_value_is_refused(run: Callable[..., Any], profiled: dict[str, Any], option: str, value: str) -> None:
    result = run("eval", option, value)
    assert result.exit_code == 2 and f"eval.{option[2:].replace('-', '_')}" in result.stderr


def test_layers_left_out_one_by_one(paper: dict[str, Any], document: Callable[..., dict[str, Any]]) -> None:
    found = document("eval", "--method", "full,random-skip-layers,dysl-paper", "--episodes", "2")["methods"]
    ran = found["random-skip-layers"]
    assert ran["errors"] == 0
    static = load_bundle(Path(paper["bundle_path"])).header.static_layers
    assert len(static) <= ran["mean_layers_run"] <= found["full"]["mean_layers_run"] == 8
