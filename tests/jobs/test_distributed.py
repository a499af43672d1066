"""Two processes over gloo against one; what a process does alone."""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dyslctl.artifacts.bundle import WEIGHTS
from dyslctl.errors import ConfigError, EnvironmentMismatch
from dyslctl.jobs import distributed
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


@pytest.mark.processes
def test_two_processes_learn_what_one_learns(tiny_backbone, tiny_suite, tmp_path: Path) -> None:
    """Each step has the same 16 samples, 8 in each process: losses and weights differ by the order of sums alone."""
    made = profile(tiny_backbone(), tiny_suite(), plugin_name="tiny", checkpoint="here", samples=16, ratio=0.4).profile
    alone, both = tmp_path / "alone", tmp_path / "both"
    for folder in (alone, both):
        folder.mkdir()
        made.save(folder / "profile.yaml")
    for process in launch(both, 2):
        assert process.returncode == 0, process.stderr
    expected = runpy.run_path(str(SCRIPT))["train_all"](alone)
    leader, follower = (json.loads((both / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert leader == follower
    for name in BUNDLES:
        assert len(leader[name]) == len(expected[name]) >= 12
        for found, wanted in zip(leader[name], expected[name], strict=True):
            assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6), name
        ours, theirs = (load_file(folder / name / WEIGHTS) for folder in (both, alone))
        for key, tensor in theirs.items():
            torch.testing.assert_close(ours[key], tensor, rtol=1e-3, atol=1e-5, msg=f"{name} {key}")
    assert not list(both.glob("*.safetensors")), "the shared states are cleared away"


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
    with pytest.raises(ConfigError, match=r"6 samples a step .* 2 micro-batches in each of 2"):
        how.require_equal_parts(6)


def test_without_accelerate_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(EnvironmentMismatch, match="several processes needs accelerate") as caught:
        distributed.together("cpu").__enter__()
    assert caught.value.hint == "pip install 'dyslctl[distributed]'"
