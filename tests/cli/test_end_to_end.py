"""The commands as a newcomer types them, on the embedded checkpoint, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dyslctl.artifacts.bundle import load_bundle

SMALL = """
profile: {samples: 32}
distill: {episodes: 4, steps: 40, batch_size: 8, checkpoint_every: 5}
guidance: {episodes: 4}
calibrate: {episodes: 4}
eval: {episodes: 3, target_episodes: 1}
bench: {iterations: 3, warmup: 1, min_seconds: 0.0, episodes: 1}
"""
RUN = ("--run", "openvla-oft")
"""Named, because tests share the folder and one of them makes another run the current one."""


def _start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dyslctl", *arguments, "--config", "small.yaml", "--json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CI": "1", "OMP_NUM_THREADS": "1"},
    )


def _document(folder: Path, *arguments: str) -> dict[str, Any]:
    process = _start(folder, *arguments)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    found: dict[str, Any] = json.loads(stdout)
    return found


def _kill_when(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    """SIGKILL in the middle of the work; fails the test if the work was over before."""
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where profile and distill have run."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "small.yaml").write_text(SMALL)
    profile = _document(folder, "profile", "openvla-oft")
    assert profile["backbone"] == "openvla-oft" and profile["num_layers"] >= 12 and profile["samples"] == 32
    for stage in ("1", "2"):
        distill = _document(folder, "distill", "--stage", stage)
        assert distill["stage"] == int(stage) and distill["loss_last"] < 2 * distill["loss_first"]
    return folder


def test_eval_then_report(folder: Path) -> None:
    found = _document(folder, "eval", *RUN, "--suite", "tabletop_object")
    assert {name: (method["episodes"], method["errors"]) for name, method in found["methods"].items()} == {
        name: (3, 0) for name in ("full", "random-skip-adapters", "dysl")
    }
    report = subprocess.run(
        [sys.executable, "-m", "dyslctl", "report", *RUN, "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (folder / json.loads(report.stdout)["report_path"]).stat().st_size > 100_000


def test_bench_here_and_on_orin(folder: Path) -> None:
    here = _document(folder, "bench", *RUN, "--device", "cpu")
    assert {row["source"] for row in here["rows"]} == {"measured"}
    orin = _document(folder, "bench", *RUN, "--device", "orin")
    assert {row["source"] for row in orin["rows"]} == {"predicted", "published"}
    assert orin["workload"] == "openvla-7b" and orin["num_layers"] == 32


def test_a_killed_eval_resumes_to_the_same_result(folder: Path) -> None:
    arguments = ("eval", *RUN, "--method", "full,random-skip-adapters,dysl", "--suite", "tabletop_spatial")
    whole = _document(folder, *arguments)
    log = folder / "runs/openvla-oft/eval/tabletop_spatial/episodes.jsonl"
    process = _start(folder, *arguments)
    _kill_when(process, lambda: log.exists() and 2 <= log.read_text().count("\n") < 9)
    resumed = _document(folder, *arguments, "--resume")
    assert _deterministic(resumed) == _deterministic(whole)


def test_a_killed_distill_resumes_to_the_same_weights(folder: Path) -> None:
    arguments = ("distill", "--stage", "1", "--run", "./killed")
    (folder / "killed").mkdir()
    _document(folder, "profile", "openvla-oft", "--run", "./killed")
    _document(folder, *arguments)
    whole = load_bundle(folder / "killed/bundles/dysl-stage1").tensors
    checkpoint = folder / "killed/distill/dysl-stage1/checkpoint.safetensors"
    checkpoint.unlink()
    process = _start(folder, *arguments)
    _kill_when(process, checkpoint.exists)
    document = _document(folder, *arguments, "--resume")
    resumed = load_bundle(folder / "killed/bundles/dysl-stage1").tensors
    assert document["steps"] == 40
    assert all(tensor.equal(resumed[name]) for name, tensor in whole.items())


def test_inspect_verifies_everything_that_was_made(folder: Path) -> None:
    run = Path("runs/openvla-oft")
    kinds = {
        run: "run directory",
        run / "skip_profile.yaml": "skip profile",
        run / "bundles/dysl": "bundle",
        run / "bundles/dysl" / "bundle.safetensors": "bundle",
    }
    for path, kind in kinds.items():
        shown = subprocess.run(
            [sys.executable, "-m", "dyslctl", "inspect", str(path), "--json"],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
        document = json.loads(shown.stdout)
        assert (document["kind"], document["valid"]) == (kind, True)


def test_a_truncated_bundle_is_refused_by_every_reader(folder: Path) -> None:
    weights = folder / "runs/openvla-oft/bundles/dysl/bundle.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    try:
        for arguments in (["inspect", str(weights)], ["eval", *RUN, "--method", "dysl"], ["bench", *RUN]):
            result = subprocess.run(
                [sys.executable, "-m", "dyslctl", *arguments], cwd=folder, capture_output=True, text=True, check=False
            )
            assert result.returncode == 4, result.stderr
            assert "bundle.safetensors is truncated or damaged" in result.stderr
    finally:
        weights.write_bytes(content)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["profile", "openvla-ofd"], 2, "Did you mean 'openvla-oft'?"),
        (["profile", "openvla-oft", "--checkpoint", "./nowhere"], 4, "nowhere"),
        (["profile", "openvla-oft", "--suite", "tabletop_objects"], 2, "Did you mean 'tabletop_object'?"),
        (["profile", "openvla-oft", "--set", "model.options={unnorm_kee: x}"], 2, "unnorm_kee"),
    ],
)
def test_bad_input_starts_no_run(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "dyslctl", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == code, result.stderr
    assert result.stdout == "" and message in result.stderr
    assert not (tmp_path / "runs").exists()


def _deterministic(document: dict[str, Any]) -> dict[str, Any]:
    timed = ("llm_ms_mean", "llm_ms_p50")
    return {
        name: {key: value for key, value in method.items() if key not in timed}
        for name, method in document["methods"].items()
    }
