"""CALVIN's recorded windows: profile, distill and calibrate without a simulator, the head's history as at inference."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from dyslctl_roboflamingo import RoboFlamingo
from torch import Tensor
from typer.testing import CliRunner, Result

from dyslctl.artifacts.strict_yaml import read_yaml
from dyslctl.cli import app
from dyslctl.data.calvin import WORDS
from dyslctl.data.calvin_annotations import ANNOTATIONS, Annotation, write_annotations
from dyslctl.data.calvin_writer import write_calvin
from dyslctl.data.encoding import PNG
from dyslctl.data.episode_file import RecordedEpisode
from dyslctl.data.mapping import DataMap
from dyslctl.data.open import open_source
from dyslctl.data.replay import RecordedSuite
from dyslctl.jobs.data import collect
from dyslctl.jobs.dataset import Batch, Dataset
from dyslctl.jobs.recipe import load_policy
from dyslctl.suite import Demonstration, EpisodeSpec
from dyslctl.types import LayerState, Observation

SIDES = {"static": 40, "gripper": 20}
WINDOWS = (
    Annotation(0, 16, "open the drawer", "open_drawer"),
    Annotation(6, 20, "pull the handle to open the drawer", "open_drawer"),
    Annotation(20, 34, "close it", "close_drawer"),
)
"""Longer than the head's window; they overlap, as CALVIN's do. The last one, of another recording, is held out."""
BRIEFLY = ("samples=8",), ("episodes=2", "steps=2", "batch_size=4")
SIZES = [
    f"--set={name}.{value}" for name, values in zip(("profile", "distill"), BRIEFLY, strict=True) for value in values
]


def recording(number: int, steps: int) -> RecordedEpisode:
    rng = np.random.default_rng(number)
    seen = [
        Observation(
            {view: rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for view, side in SIDES.items()},
            "anything",
            rng.normal(size=15).astype(np.float32),
        )
        for _ in range(steps)
    ]
    pose, gripper = rng.uniform(-1, 1, (steps, 6)), np.where(rng.random((steps, 1)) < 0.5, -1, 1)
    actions = np.hstack([pose, gripper]).astype(np.float32)
    spec = EpisodeSpec("calvin_d", "train", number, "chain", number)
    return RecordedEpisode.of(Demonstration(spec, seen, actions, 1), DataMap(action="action"), PNG)


@pytest.fixture
def calvin(tmp_path: Path) -> Path:
    """Two recordings of 20 and 14 frames, and three windows; no ``data-map.yaml``, as in CALVIN's own data sets."""
    root = tmp_path / "task_D_D"
    write_calvin(root, [recording(0, 20), recording(1, 14)])
    write_annotations(root / "training" / WORDS / ANNOTATIONS, WINDOWS)
    return root


def run(command: str, *arguments: str) -> Result:
    sizes = SIZES if command in ("profile", "distill") else []
    return CliRunner().invoke(app, [command, *sizes, *arguments, "--json", "--quiet"])


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    monkeypatch.chdir(tmp_path)

    def document(command: str, *arguments: str) -> dict[str, Any]:
        result = run(command, *arguments)
        assert result.exit_code == 0, result.stderr
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    return document


def test_from_recorded_windows_to_a_policy(
    folder: Path, calvin: Path, document: Callable[..., dict[str, Any]], observe: Callable[..., Observation]
) -> None:
    """Nobody is asked how many actions are executed: this model predicts one."""
    profiled = document("profile", "roboflamingo", "--checkpoint", str(folder), "--data", str(calvin))
    assert (profiled["suite"], profiled["num_layers"], profiled["samples"]) == (str(calvin), 7, 8)
    found = document("distill", "--method", "dysl")["calibrated"]
    # Of the held-out window, 14 frames, nothing comes after the last.
    assert (found["offline"], found["suite"], found["episodes"], found["frames"]) == (True, str(calvin), 1, 13)
    found = document("calibrate", "--data", str(calvin), "--target-layers", "5")
    settings = read_yaml(Path("runs/roboflamingo/bundles/dysl/bundle.yaml"))
    assert settings["calibration"]["rule"] == "offline: 5 layers"
    assert settings["exits"]["tolerance"] == found["dial"]
    document("distill", "--method", "dysl-paper")
    calibration = read_yaml(Path("runs/roboflamingo/bundles/dysl-paper/bundle.yaml"))["calibration"]
    assert (calibration["rule"], calibration["suite"]) == ("offline: occupancy", str(calvin))
    for method in ("dysl", "dysl-paper"):
        policy = load_policy("roboflamingo", method)
        policy.reset()
        assert [len(policy.select_action(observe(seed=seed))) for seed in range(3)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("distill", ("--max-success-drop", "1pp"), "--max-success-drop is found in closed loop"),
        ("distill", ("--execute-horizon", "2"), "execute_horizon is 2, but the backbone predicts 1 actions"),
        ("calibrate", ("--data", "task_D_D", "--method", "dysl-paper"), "has no tolerance to set on recorded episodes"),
    ],
)
def test_what_windows_cannot_tell_is_refused(
    folder: Path,
    calvin: Path,
    document: Callable[..., dict[str, Any]],
    command: str,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    document("profile", "roboflamingo", "--checkpoint", str(folder), "--data", str(calvin))
    refused = run(command, *arguments)
    assert refused.exit_code == 2 and message in " ".join(refused.stderr.split())


@pytest.mark.parametrize("source", ["expert", "policy"])
def test_the_head_sees_the_steps_before_of_its_window_alone(
    backbone: RoboFlamingo, calvin: Path, source: Literal["expert", "policy"]
) -> None:
    """Whatever was recorded before the window: there the robot had not been told yet what to do."""
    suite = RecordedSuite(open_source(str(calvin)), 1)
    train = [WINDOWS[number] for number in suite.source.numbers("train")]
    assert train == list(WINDOWS[:2])
    data = collect(backbone, suite, episodes=2, source=source, label="teacher")
    compared = 0
    for spec in suite.episodes("train", 2):
        seen = suite.demonstrate(spec).observations
        made = [feature(backbone, observation) for observation in seen]
        # A policy's last action leads to no frame.
        for step, (history, target) in enumerate(rows(data, spec.index)):
            before = made[max(0, step - 11) : step]
            torch.testing.assert_close(history, remembered(backbone, before))
            torch.testing.assert_close(target[0], spoken(backbone, made[: step + 1]))
            compared += 1
    assert compared == {"expert": 16 + 14, "policy": 15 + 13}[source]


def test_recorded_actions_are_the_labels_of_the_papers_training(backbone: RoboFlamingo, calvin: Path) -> None:
    suite = RecordedSuite(open_source(str(calvin)), 1)
    data = collect(backbone, suite, episodes=2, source="expert")
    for spec in suite.episodes("train", 2):
        acted = suite.demonstrate(spec).actions
        found = torch.stack([target[0] for _, target in rows(data, spec.index)]).numpy()
        np.testing.assert_array_equal(found[:, :6], acted[:, :6])
        np.testing.assert_array_equal(found[:, 6], acted[:, 6] == 1)


def rows(data: Dataset, episode: int) -> Iterator[tuple[Tensor, Tensor]]:
    """History and target of each sample of ``episode``, in the order of its steps: its words are one group."""
    for group in data.groups:
        assert isinstance(group, Batch) and group.inputs.history is not None
        for row in (group.episodes == episode).nonzero()[:, 0].tolist():
            yield group.inputs.history[row], group.target[row]


@torch.no_grad()
def remembered(backbone: RoboFlamingo, features: list[Tensor]) -> Tensor:
    """``[Q]``: the state of the LSTM behind ``features``, which it begins with nothing."""
    rnn = backbone.model.head.rnn
    states = rnn(torch.stack(features)[None])[1] if features else [torch.zeros(rnn.num_layers, 1, rnn.hidden_size)] * 2
    return torch.cat([state.flatten() for state in states])


@torch.no_grad()
def feature(backbone: RoboFlamingo, observation: Observation) -> Tensor:
    """``[H]``: the maximum over the words of what the last layer makes of them; no head, no memory."""
    state = LayerState.of(backbone.encode([observation]))
    for layer in range(backbone.spec.num_layers):
        state.hidden = backbone.run_layer(layer, state)
    return state.hidden[0].amax(0)


@torch.no_grad()
def spoken(backbone: RoboFlamingo, features: list[Tensor]) -> Tensor:
    """``[7]``: what the head says after at most 12 features, from a state of zeros."""
    head = backbone.model.head
    out = head.rnn(torch.stack(features[-12:])[None])[0][0, -1]
    return torch.cat([head.actions(out), head.gripper(out)])
