"""Two processes over gloo against one; what a process does alone."""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dyslctl.artifacts.bundle import WEIGHTS
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.errors import ConfigError, EnvironmentMismatch
from dyslctl.jobs import distributed
from dyslctl.jobs.distill_exits import ExitTraining, distill_exits
from dyslctl.jobs.exit_data import Rounds
from dyslctl.jobs.profile import profile
from dyslctl.jobs.training import Optimization

SCRIPT = Path(__file__).with_name("train_tiny.py")
BUNDLES = ("paper1", "paper2", "exits1", "exits2")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        port: int = server.getsockname()[1]
        return port


def launch(folder: Path, processes: int) -> list[subprocess.CompletedProcess[str]]:
    """What ``torchrun`` does: as many processes, each told its number and where they meet."""
    meet = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    running = [
        subprocess.Popen(
            [sys.executable, SCRIPT, folder],
            env={**os.environ, **meet, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    ended = [(process, *process.communicate(timeout=240)) for process in running]
    return [subprocess.CompletedProcess(process.args, process.returncode, *texts) for process, *texts in ended]


def compare(folder: Path, curves: Any, other: Path, expected: Any) -> None:
    """Equal but for the order of sums: every loss, and every weight of every bundle."""
    for name in BUNDLES:
        assert len(curves[name]) == len(expected[name]) >= 12
        for found, wanted in zip(curves[name], expected[name], strict=True):
            assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6), name
        weights = load_file(folder / name / WEIGHTS)
        for key, tensor in load_file(other / name / WEIGHTS).items():
            torch.testing.assert_close(weights[key], tensor, rtol=1e-3, atol=1e-5, msg=f"{name} {key}")


@pytest.fixture(scope="module")
def skip_profile(tiny_backbone, tiny_suite) -> SkipProfile:
    return profile(tiny_backbone(), tiny_suite(), plugin_name="tiny", checkpoint="here", samples=16, ratio=0.4).profile


@pytest.fixture(scope="module")
def alone(skip_profile: SkipProfile, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Folder and loss curves of one process that keeps all embeddings in memory."""
    folder = tmp_path_factory.mktemp("alone")
    skip_profile.save(folder / "profile.yaml")
    return folder, runpy.run_path(str(SCRIPT))["train_all"](folder)


@pytest.mark.processes
def test_two_processes_learn_what_one_learns(
    alone: tuple[Path, Any], skip_profile: SkipProfile, tmp_path: Path
) -> None:
    """Each step has the same 16 samples, 8 in each process: losses and weights differ by the order of sums alone.

    The one keeps its embeddings in memory, the two encode those for the exits when they draw a batch.
    """
    skip_profile.save(tmp_path / "profile.yaml")
    for process in launch(tmp_path, 2):
        assert process.returncode == 0, process.stderr
    leader, follower = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert leader == follower
    compare(tmp_path, leader, *alone)
    left = [file.name for pattern in ("*.safetensors", "*.images", "*.jsonl") for file in tmp_path.glob(pattern)]
    assert not left, "the shared states are cleared away"


def test_who_keeps_no_embeddings_learns_the_same(
    alone: tuple[Path, Any], skip_profile: SkipProfile, tmp_path: Path
) -> None:
    """Every batch of both trainings is encoded when it is drawn."""
    skip_profile.save(tmp_path / "profile.yaml")
    curves = runpy.run_path(str(SCRIPT))["train_all"](tmp_path, keep_paper=False, keep_exits=False)
    compare(tmp_path, curves, *alone)


def test_a_process_that_no_launcher_started_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.together("cpu"):
        assert (distributed.rank(), distributed.world_size(), distributed.leads()) == (0, 1, True)
        tensor = torch.tensor([1.0, 2.0])
        distributed.average([tensor])
        distributed.align([tensor])
        distributed.wait()
        assert tensor.tolist() == [1.0, 2.0]
        assert distributed.average_numbers([0.1, 0.2], torch.device("cpu")) == [0.1, 0.2]


def test_the_parts_of_two_processes_cover_a_step_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 samples, 2 processes of 2 micro-batches: rows 0-1 and 2-3 in the first, 4-5 and 6-7 in the second."""
    rows, how, found = torch.arange(8), Optimization(steps=1, accumulate=2), []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        found.append([part.of(rows).tolist() for part in how.own_parts()])
    assert found == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    how.require_equal_parts(8)
    with pytest.raises(ConfigError, match=r"distill\.batch_size is 6: .* 2 micro-batches in each of 2") as caught:
        how.require_equal_parts(6)
    assert str(caught.value.hint).startswith("--set distill.batch_size=8, or")


def test_the_planners_batch_is_named_where_it_does_not_fit(
    skip_profile: SkipProfile, tiny_backbone, tiny_suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three processes share 33 samples, and cannot share 32."""
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    backbone, settings = tiny_backbone(), ExitTraining(stage=1, steps=1, batch_size=3, planner_batch=32)
    rounds = Rounds(backbone, [tiny_suite()], episodes=1)
    with pytest.raises(ConfigError, match=r"distill\.planner_batch is 32: .* 3 processes") as caught:
        distill_exits(backbone, skip_profile, rounds, settings, out=tmp_path / "out", bundle=tmp_path / "bundle")
    assert str(caught.value.hint).startswith("--set distill.planner_batch=33, or")


def test_without_accelerate_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(EnvironmentMismatch, match="several processes needs accelerate") as caught:
        distributed.together("cpu").__enter__()
    assert caught.value.hint == "pip install 'dyslctl[distributed]'"
