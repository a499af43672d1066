"""``--workers`` and ``--executor`` as a user gives them, in a process that starts others: the same results."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dyslctl.cli.config import Config
from dyslctl.cli.steps import distill as steps
from dyslctl.jobs import trajectories
from dyslctl.jobs.simulators import simulators
from dyslctl.suite import TaskSuite

TESTS = Path(__file__).parents[1]
ENTRY_POINTS = "[dyslctl.backbones]\ntiny = tiny:TinyBackbone\n[dyslctl.suites]\ntiny_reach = tiny:TinyReach\n"
HAS_RAY = importlib.util.find_spec("ray") is not None
RAY = pytest.param(
    "ray",
    marks=pytest.mark.skipif(not HAS_RAY, reason="NOT TESTED: ray is not installed (pip install 'dyslctl[ray]')"),
)
TABLE = """
schema: dyslctl.ablations/1
tables:
  two:
    title: Two
    reference: as it is
    cells:
      - {name: as it is, method: dysl-paper}
      - {name: no stage 1, method: dysl-paper, set: [distill.from_scratch=true]}
"""
SWEEP = (
    *("analyze", "ablation", "--table", "two.yaml", "--set", "distill.episodes=2", "--set", "distill.batch_size=4"),
    *("--set", "distill.steps=2", "--set", "guidance.episodes=2", "--episodes", "3"),
)
EVAL = ("eval", "--method", "full", "--episodes", "4")


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    """Where the plugins of ``tiny.py`` are installed for every process; a Ray cluster of two CPUs."""
    info = tmp_path / "site" / "tiny-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    paths = [*map(str, (tmp_path / "site", TESTS, TESTS / "jobs")), os.environ.get("PYTHONPATH", "")]
    more = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **more, "RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": 2})}


def document_of(environment: Mapping[str, str], *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "dyslctl", *arguments, "--json", "--quiet"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("executor", ["local", RAY])
def test_a_sweep_finds_the_same_wherever_it_runs(
    profiled: dict[str, Any], document: Callable[..., dict[str, Any]], environment: Mapping[str, str], executor: str
) -> None:
    Path("two.yaml").write_text(TABLE)
    shutil.copytree("runs", "elsewhere")
    here = document(*SWEEP)
    shutil.rmtree("runs")
    Path("elsewhere").rename("runs")
    assert document_of(environment, *SWEEP, "--workers", "2", "--executor", executor)["cells"] == here["cells"]


@pytest.mark.parametrize("executor", [RAY])
def test_an_evaluation_finds_the_same_wherever_it_runs(
    profiled: dict[str, Any], document: Callable[..., dict[str, Any]], environment: Mapping[str, str], executor: str
) -> None:
    untimed = {"llm_ms_mean", "llm_ms_p50"}
    here = document(*EVAL)["methods"]["full"]
    there = document_of(environment, *EVAL, "--workers", "2", "--executor", executor)["methods"]["full"]
    assert {**here, **dict.fromkeys(untimed)} == {**there, **dict.fromkeys(untimed)}


def test_an_unknown_executor_is_refused(profiled: dict[str, Any], run: Callable[..., Any]) -> None:
    result = run(*EVAL, "--executor", "slurm")
    assert result.exit_code == 2 and "eval.executor" in result.stderr


@pytest.mark.skipif(HAS_RAY, reason="ray is installed")
def test_without_ray_it_is_said_what_brings_it(profiled: dict[str, Any], run: Callable[..., Any]) -> None:
    result = run(*EVAL, "--executor", "ray")
    assert result.exit_code == 3 and "pip install 'dyslctl[ray]'" in result.stderr


@pytest.mark.parametrize("method", ["dysl", "dysl-paper"])
def test_simulators_in_several_processes_lead_to_the_same_weights(
    profiled: dict[str, Any], document: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))  # the processes import tiny.py
    bundles, asked = [], set()

    def noted(suite: TaskSuite, count: int, processes: int) -> Any:
        asked.add(processes)
        return simulators(suite, count, processes)

    monkeypatch.setattr(trajectories, "simulators", noted)
    for workers in ("1", "2"):
        # Not --workers: the search at the end would play in processes that do not have the plugin.
        sets = (f"distill.workers={workers}", "distill.data=policy")
        document("distill", "--method", method, *(word for one in sets for word in ("--set", one)))
        bundles.append(load_file(f"runs/tiny/bundles/{method}/bundle.safetensors"))
    assert asked == {1, 2}
    assert all(torch.equal(tensor, bundles[1][name]) for name, tensor in bundles[0].items())


def test_workers_of_distill_are_those_of_its_simulators_and_of_the_search(
    profiled: dict[str, Any], run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(
        steps, "run_distill_to_budget", lambda workspace, *_, **__: seen.append(_workers(workspace.config)) or {}
    )
    assert run("distill", "--workers", "3").exit_code == 0
    assert seen == [(3, 3)]


def _workers(config: Config) -> tuple[int, int]:
    return config.distill.workers, config.calibrate.workers
