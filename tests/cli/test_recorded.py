"""``--data`` on the tiny backbone: profile and distill without a simulator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from dyslctl import plugins
from dyslctl.artifacts.strict_yaml import read_yaml
from dyslctl.cli import app

if TYPE_CHECKING:
    from tests.tiny import TinyReach

Run = Callable[..., Result]
Documents = Callable[..., dict[str, Any]]
VIEWS = {"image": "agent", "image2": "wrist"}
BRIEFLY = ("--steps", "2", "--set", "distill.batch_size=4", "--set", "distill.rounds=1", "--set", "distill.episodes=1")
TINY_HDF5 = """
schema: dyslctl.data-map/1
views: {agent: {column: obs/agentview_rgb, rotate: 180}}
proprio: [obs/ee_states]
action: actions
"""


@pytest.fixture
def episodes(tiny_suite: type[TinyReach], writers: ModuleType) -> list[Any]:
    """The expert's, as a file would hold them."""
    found = []
    for spec in tiny_suite().episodes("train", 12):
        shown = tiny_suite().demonstrate(spec)
        state = np.stack([o.proprio for o in shown.observations if o.proprio is not None])
        views = {"agent": [observation.images["agent"] for observation in shown.observations]}
        found.append(writers.Episode(shown.observations[0].instruction, shown.actions, state, views))
    return found


@pytest.fixture
def lerobot(episodes: list[Any], writers: ModuleType, run: Run) -> str:
    """A LeRobot data set in the current folder."""
    return str(writers.write_lerobot(Path("recorded"), episodes, row_group=20))


def test_from_recorded_episodes_to_a_bundle(lerobot: str, document: Documents) -> None:
    """The run keeps what profile was told; nothing of it needs the simulator."""
    profiled = document("profile", "tiny", "--data", lerobot, "--execute-horizon", "2")
    assert (profiled["suite"], profiled["samples"]) == (lerobot, 16)
    distilled = document("distill")
    found = distilled["calibrated"]
    assert found["offline"] is True and found["target"] == "predicted damage below 0.1"
    assert (found["suite"], found["split"], found["episodes"]) == (lerobot, "tune", 1)
    settings = read_yaml(Path("runs/tiny/bundles/dysl/bundle.yaml"))
    assert settings["exits"]["threshold"] == found["dial"]
    assert settings["calibration"]["rule"] == "offline: predicted damage below 0.1"
    assert document("eval", "--method", "dysl", "--episodes", "1")["methods"]["dysl"]["errors"] == 0


def test_a_number_of_layers_from_recorded_episodes(lerobot: str, document: Documents) -> None:
    document("profile", "tiny", "--data", lerobot)
    found = document("distill", "--execute-horizon", "2", "--target-layers", "8")["calibrated"]
    assert found["target"] == "8 layers" and found["layers_per_inference"] == pytest.approx(8.0)


def test_calibrate_sets_another_threshold_offline(
    distilled: dict[str, Any], episodes: list[Any], writers: ModuleType, document: Documents, run: Run
) -> None:
    """Of a bundle that was trained in the simulator: how many actions are executed is known from it."""
    writers.write_lerobot(Path("recorded"), episodes)
    found = document("calibrate", "--data", "recorded", "--target-layers", "8")
    assert (found["offline"], found["suite"], found["layers_per_inference"]) == (True, "recorded", pytest.approx(8.0))
    calibration = read_yaml(Path("runs/tiny/bundles/dysl/bundle.yaml"))["calibration"]
    assert calibration["rule"] == "offline: 8 layers" and "success" not in calibration["numbers"]
    failed = run("calibrate", "--data", "recorded", "--execute-horizon", "3")
    assert failed.exit_code == 2 and "the exits were trained for 2" in failed.stderr
    failed = run("calibrate", "--data", "recorded", "--method", "dysl-paper")
    assert failed.exit_code == 2 and "has no threshold to set on recorded episodes" in failed.stderr


def test_the_papers_modules_learn_from_recorded_episodes(lerobot: str, document: Documents) -> None:
    document("profile", "tiny", "--data", lerobot, "--execute-horizon", "2")
    assert "calibrated" not in document("distill", "--method", "dysl-paper")
    calibration = read_yaml(Path("runs/tiny/bundles/dysl-paper/bundle.yaml"))["calibration"]
    assert (calibration["rule"], calibration["suite"]) == ("offline: occupancy", lerobot)
    assert "mean_score" not in calibration["numbers"]


def test_hdf5_with_a_column_mapping_of_ones_own(
    episodes: list[Any], writers: ModuleType, document: Documents, run: Run
) -> None:
    writers.write_hdf5(Path("demos"), episodes)
    Path("map.yaml").write_text(TINY_HDF5)
    document("profile", "tiny", "--data", "demos", "--data-map", "map.yaml", "--execute-horizon", "2")
    assert document("distill", "--stage", "1")["stage"] == 1


def test_what_is_printed_says_that_no_robot_acted(lerobot: str, document: Documents, run: Run) -> None:
    document("profile", "tiny", "--data", lerobot, "--execute-horizon", "2")
    shown = run("distill", "--quiet")
    assert shown.exit_code == 0, shown.stderr
    assert "from recorded episodes" in shown.stdout and "no robot acted" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "it is not guessed"),
        (("--execute-horizon", "5"), "data.execute_horizon is 5, but the backbone predicts 4 actions"),
        (("--execute-horizon", "2", "--max-success-drop", "1pp"), "--max-success-drop is found in closed loop"),
        (("--execute-horizon", "2", "--target-ms", "1"), "--target-ms is found in closed loop"),
        (("--execute-horizon", "2", "--method", "dysl-paper", "--target-layers", "5"), "only 'dysl' can"),
        (("--execute-horizon", "2", "--set", "distill.suites=[tiny_reach]"), "distill.suites names tiny_reach"),
    ],
)
def test_what_a_recording_cannot_tell_is_refused(
    lerobot: str, document: Documents, run: Run, arguments: tuple[str, ...], message: str
) -> None:
    document("profile", "tiny", "--data", lerobot)
    failed = run("distill", "--quiet", *arguments)
    assert failed.exit_code == 2 and message in " ".join(failed.stderr.split())


def test_the_simulator_is_one_word_away(lerobot: str, document: Documents) -> None:
    document("profile", "tiny", "--data", lerobot)
    found = document("distill", "--data", "policy", "--target-layers", "8")["calibrated"]
    assert (found["suite"], found.get("offline")) == ("tiny_reach", None)


def test_actions_of_another_robot_are_refused(writers: ModuleType, run: Run) -> None:
    writers.write_lerobot(Path("other"), [writers.episode(number, 5) for number in range(3)])
    failed = run("profile", "tiny", "--data", "other")
    assert failed.exit_code == 2
    assert "the backbone's actions have 3 dimensions, the recorded ones 7" in " ".join(failed.stderr.split())


def test_a_folder_of_something_else_is_an_artifact_error(run: Run) -> None:
    Path("other").mkdir()
    failed = run("profile", "tiny", "--data", "other")
    assert failed.exit_code == 4 and "looked for: meta/info.json" in " ".join(failed.stderr.split())


def test_table_top_episodes_in_liberos_layouts(
    writers: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The embedded checkpoint reads what LIBERO's files hold: two views, 8 numbers of state, 7 of action."""
    monkeypatch.chdir(tmp_path)
    suite, found = plugins.load_suite("tabletop_object"), []
    for spec in suite.episodes("train", 4):
        shown = suite.demonstrate(spec)
        views = {to: [o.images[view] for o in shown.observations] for to, view in VIEWS.items()}
        state = np.stack([o.proprio for o in shown.observations if o.proprio is not None])
        found.append(writers.Episode(shown.observations[0].instruction, shown.actions, state, views))
    writers.write_lerobot(Path("lerobot"), found)
    writers.write_hdf5(Path("hdf5"), found)
    for arguments in (
        ["profile", "openvla-oft", "--data", "lerobot", "--data-map", "huggingfacevla-libero", "--samples", "8"],
        ["distill", "--data", "hdf5", "--data-map", "libero-hdf5", "--execute-horizon", "4", *BRIEFLY],
    ):
        result = CliRunner().invoke(app, [*arguments, "--quiet"])
        assert result.exit_code == 0, result.stderr
    calibration = read_yaml(Path("runs/openvla-oft/bundles/dysl/bundle.yaml"))["calibration"]
    assert (calibration["rule"], calibration["suite"]) == ("offline: predicted damage below 0.1", "hdf5")
