"""``dyslctl demos`` on the tiny suite, and on from its data set without being told anything about it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import Result

from dyslctl import plugins
from dyslctl.data.open import open_source
from dyslctl.jobs.recipe import load_policy
from dyslctl.types import Observation

if TYPE_CHECKING:
    from tests.tiny import TinyReach

Run = Callable[..., Result]
Documents = Callable[..., dict[str, Any]]


def test_what_was_recorded_is_counted(document: Documents, run: Run) -> None:
    found = document("demos", "tiny_reach", "--episodes", "3", "--out", "set")
    assert (found["schema"], found["path"]) == ("dyslctl.demos/1", "set")
    assert (found["suite"], found["split"], found["format"]) == ("tiny_reach", "train", "lerobot")
    assert (found["episodes"], found["failed"], found["noop_threshold"]) == (3, 0, 1e-4)
    assert {task: went["episodes"] for task, went in found["tasks"].items()} == {"reach_red": 2, "reach_blue": 1}
    assert found["megabytes"] > 0
    shown = run("demos", "tiny_reach", "--episodes", "3", "--out", "set", "--resume")
    assert shown.exit_code == 0 and "3 demonstrations" in shown.stdout and "reach_blue" in shown.stdout


@pytest.mark.parametrize("format_", ["lerobot", "hdf5", "calvin"])
def test_from_demonstrations_to_a_bundle(
    document: Documents, tiny_suite: type[TinyReach], monkeypatch: pytest.MonkeyPatch, format_: str
) -> None:
    """Columns, gripper, and how many actions are executed: the data set says it."""
    with monkeypatch.context() as patch:
        patch.setattr(tiny_suite, "execute_horizon", 3)
        patch.setattr(tiny_suite, "gripper_open", 1 if format_ == "calvin" else -1)
        document("demos", "tiny_reach", "--episodes", "12", "--out", "set", "--format", format_)
    assert document("profile", "tiny", "--data", "set")["samples"] == 16
    assert document("distill")["calibrated"]["offline"] is True
    seen = Observation({"agent": np.zeros((8, 8, 3), np.uint8)}, "reach red", np.zeros(2, np.float32))
    for method in ("full", "dysl"):
        assert len(load_policy("tiny", method).select_action(seen)) == 3


def test_the_options_reach_the_data_set(document: Documents) -> None:
    flags = ("--split", "tune", "--image-quality", "80", "--keep-noops", "--disturb", "0.2")
    found = document("demos", "tiny_reach", "--episodes", "2", "--out", "deep/set", *flags)
    assert (found["split"], found["noop_threshold"]) == ("tune", None)
    assert found["images"] == {"coding": "jpeg", "quality": 80}
    assert found["disturbance"]["share"] == 0.2
    assert len(open_source("deep/set")) == 2


def test_tasks_without_a_skill_are_said_and_left_out(
    run: Run, tiny_suite: type[TinyReach], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Able(tiny_suite):  # type: ignore[misc, valid-type]
        tasks_with_skill: Sequence[str] = ("reach_blue",)

        @property
        def demonstrated_tasks(self) -> Sequence[str]:
            return self.tasks_with_skill

    monkeypatch.setattr(plugins, "load_suite", lambda name: Able())
    found = run("demos", "tiny_reach", "--episodes", "2", "--out", "set")
    assert (found.exit_code, found.stderr.splitlines()[0]) == (
        0,
        "skipped: reach_red (the expert has no skill for it)",
    )
    monkeypatch.setattr(Able, "tasks_with_skill", ())
    found = run("demos", "tiny_reach", "--episodes", "2", "--out", "other")
    assert found.exit_code == 3 and "tiny_reach has no scripted expert" in found.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--split", "test"), "--split"),
        (("--format", "rlds"), "--format"),
        (("--image-quality", "0"), "--image-quality"),
        (("--episodes", "0"), "--episodes"),
        (("--workers", "0"), "--workers"),
        (("--episode-timeout", "0"), "--episode-timeout: expected seconds above 0, found 0"),
        (("--disturb", "0.6"), "--disturb"),
        (("--format", "hdf5", "--image-quality", "90"), "--format hdf5 has images without loss"),
        (("--format", "calvin", "--image-quality", "90"), "--format calvin has images without loss"),
        (("--format", "calvin"), "its files open the gripper at 1, tiny_reach at -1"),
    ],
)
def test_wrong_arguments(run: Run, flags: tuple[str, ...], message: str) -> None:
    found = run("demos", "tiny_reach", "--out", "set", *flags)
    assert found.exit_code == 2 and message in found.stderr
    assert not Path("set").exists()


def test_a_folder_that_is_there_is_left_alone(run: Run) -> None:
    Path("set").mkdir()
    Path("set/notes.txt").write_text("mine")
    found = run("demos", "tiny_reach", "--out", "set")
    assert found.exit_code == 2 and "expected a new folder" in found.stderr
    assert Path("set/notes.txt").read_text() == "mine"


def test_an_expert_that_dies_costs_no_more_than_its_episode(tmp_path: Path, mortal: Mapping[str, str]) -> None:
    """The second episode is played again; in the place of the third, which always dies, comes the next of its task."""
    how = ("--episodes", "4", "--out", "set", "--episode-timeout", "300", "--json", "--quiet")
    done = subprocess.run(
        [sys.executable, "-m", "dyslctl", "demos", "tiny_reach", *how],
        cwd=tmp_path,
        env=mortal,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["episodes"], found["failed"]) == (4, 0)
    assert found["errors"] == {"2": "the worker process died of signal 9 (Killed)"}
    assert len(open_source(str(tmp_path / "set"))) == 4
