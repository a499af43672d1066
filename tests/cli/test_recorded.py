"""``--data`` on the tiny backbone: profile and distill without a simulator."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from dyslctl import plugins
from dyslctl.artifacts.strict_yaml import read_yaml
from dyslctl.cli import app
from dyslctl.jobs import exit_data, fit_tolerance
from dyslctl.jobs.data import collect
from dyslctl.jobs.latency import demonstration_frames
from dyslctl.jobs.recipe import load_policy
from dyslctl.suite import TaskSuite
from dyslctl.types import Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach

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


def full(name: str) -> str:
    """How a run keeps the path ``name``."""
    return str(Path(name).resolve())


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
    assert (profiled["suite"], profiled["samples"]) == (full(lerobot), 16)
    distilled = document("distill")
    found = distilled["calibrated"]
    assert found["offline"] is True and found["target"] == "predicted damage below 0.1"
    assert (found["suite"], found["split"], found["episodes"]) == (full(lerobot), "tune", 1)
    settings = read_yaml(Path("runs/tiny/bundles/dysl/bundle.yaml"))
    assert settings["exits"]["tolerance"] == found["dial"]
    assert settings["calibration"]["rule"] == "offline: predicted damage below 0.1"
    assert document("eval", "--method", "dysl", "--episodes", "1")["methods"]["dysl"]["errors"] == 0


def test_recordings_that_do_not_fit_into_memory_teach_the_same(
    lerobot: str, document: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every batch encoded when it is drawn, in training and where the threshold is set."""
    document("profile", "tiny", "--data", lerobot, "--execute-horizon", "2")
    kept = document("distill")
    for job in (exit_data, fit_tolerance):
        monkeypatch.setattr(job, "collect", partial(collect, max_bytes=0))
    drawn = document("distill", "--set", "distill.cache_gb=0")
    for key in ("loss_first", "loss_last"):
        assert drawn[key] == pytest.approx(kept[key], rel=1e-4)
    assert drawn["calibrated"]["dial"] == pytest.approx(kept["calibrated"]["dial"], abs=1e-3)


@pytest.mark.parametrize("told", ["profile", "distill"])
def test_from_recordings_of_another_horizon_to_a_robot(
    lerobot: str, document: Documents, run: Run, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """The suite executes 2 actions an inference, the robot 3."""
    horizon = ("--execute-horizon", "3")
    document("profile", "tiny", "--data", lerobot, *(horizon if told == "profile" else ()))
    document("distill", *(horizon if told == "distill" else ()))
    shown: list[TaskSuite] = []

    def spy(suite: TaskSuite, episodes: int) -> list[list[Observation]]:
        shown.append(suite)
        return demonstration_frames(suite, episodes)

    monkeypatch.setattr("dyslctl.jobs.bench.demonstration_frames", spy)
    rows = document("bench", "--method", "full,dysl")["rows"]
    assert {"full", "dysl"} <= {row["method"] for row in rows if row["source"] == "measured"}
    assert [(suite.name, suite.execute_horizon) for suite in shown] == [(full(lerobot), 3)]
    seen = Observation({"agent": np.zeros((8, 8, 3), np.uint8)}, "reach red", np.zeros(2, np.float32))
    assert len(load_policy("tiny").select_action(seen)) == 3
    assert len(load_policy("tiny", "full").select_action(seen)) == (3 if told == "profile" else 2)
    refused = run("eval", "--method", "dysl", "--episodes", "2")
    if told == "distill":  # the run itself knows nothing of it
        assert refused.exit_code == 2 and "hint: --set execute_horizon=3, or" in " ".join(refused.stderr.split())
        refused = run("eval", "--method", "dysl", "--episodes", "2", "--set", "execute_horizon=3")
    assert refused.exit_code == 0


def test_one_action_an_inference_leaves_nothing_to_say(
    lerobot: str, document: Documents, tiny_backbone: type[TinyBackbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Single(tiny_backbone):  # type: ignore[misc, valid-type]
        def __init__(self, **how: Any) -> None:
            super().__init__(chunk_length=1, **how)

    monkeypatch.setattr(plugins, "load_backbone", lambda name: Single)
    document("profile", "single", "--data", lerobot)
    assert document("distill")["calibrated"]["offline"] is True
    seen = Observation({"agent": np.zeros((8, 8, 3), np.uint8)}, "reach red", np.zeros(2, np.float32))
    assert len(load_policy("single").select_action(seen)) == 1


def test_a_run_of_recordings_is_used_from_another_folder(
    lerobot: str, document: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("weights").mkdir()
    document("profile", "tiny", "--checkpoint", "weights", "--data", lerobot)
    config = read_yaml(Path("runs/tiny/config/profile.yaml"))
    assert (config["data"]["path"], config["model"]["checkpoint"]) == (full(lerobot), full("weights"))
    run_folder = full("runs/tiny")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    document("distill", "--run", run_folder, "--stage", "1", "--execute-horizon", "2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "other"), "looked for: meta/info.json"),
        (("--data", "recorded", "--execute-horizon", "99"), "execute_horizon is 99, but the backbone predicts 4"),
        (("--set", "profile.static_layers=8"), "all 8 layers would be static"),
    ],
)
def test_what_cannot_be_profiled_leaves_the_runs_as_they_were(
    lerobot: str, profiled: dict[str, Any], run: Run, arguments: tuple[str, ...], message: str
) -> None:
    Path("other").mkdir()
    Path("weights").mkdir()
    before = Path("runs/tiny/manifest.json").read_bytes()
    for name in ("tiny", "new"):
        failed = run("profile", "tiny", "--run", name, "--checkpoint", "weights", *arguments)
        assert failed.exit_code != 0 and message in " ".join(failed.stderr.split())
    assert Path("runs/tiny/manifest.json").read_bytes() == before
    assert not Path("runs/new").exists() and Path("runs/current").read_text() == "tiny\n"


def test_how_to_read_a_recording_needs_one(distilled: dict[str, Any], run: Run) -> None:
    failed = run("calibrate", "--target-layers", "6", "--data-map", "lerobot")
    assert failed.exit_code == 2 and "--data-map describes recorded episodes" in " ".join(failed.stderr.split())


def test_a_number_of_layers_from_recorded_episodes(lerobot: str, document: Documents) -> None:
    document("profile", "tiny", "--data", lerobot)
    found = document("distill", "--execute-horizon", "2", "--target-layers", "8")["calibrated"]
    assert found["target"] == "8 layers" and found["layers_per_inference"] == pytest.approx(8.0)


def test_calibrate_sets_another_tolerance_offline(
    distilled: dict[str, Any], episodes: list[Any], writers: ModuleType, document: Documents, run: Run
) -> None:
    """Of a bundle that was trained in the simulator: how many actions are executed is known from it."""
    writers.write_lerobot(Path("recorded"), episodes)
    found = document("calibrate", "--data", "recorded", "--target-layers", "8")
    assert (found["offline"], found["suite"]) == (True, full("recorded"))
    assert found["layers_per_inference"] == pytest.approx(8.0)
    calibration = read_yaml(Path("runs/tiny/bundles/dysl/bundle.yaml"))["calibration"]
    assert calibration["rule"] == "offline: 8 layers" and "success" not in calibration["numbers"]
    failed = run("calibrate", "--data", "recorded", "--execute-horizon", "3")
    assert failed.exit_code == 2 and "the exits were trained for 2" in failed.stderr
    assert "hint: --execute-horizon 2" in failed.stderr
    failed = run("calibrate", "--data", "recorded", "--method", "dysl-paper")
    assert failed.exit_code == 2 and "has no tolerance to set on recorded episodes" in failed.stderr


def test_the_papers_modules_learn_from_recorded_episodes(lerobot: str, document: Documents) -> None:
    document("profile", "tiny", "--data", lerobot, "--execute-horizon", "2")
    assert "calibrated" not in document("distill", "--method", "dysl-paper")
    calibration = read_yaml(Path("runs/tiny/bundles/dysl-paper/bundle.yaml"))["calibration"]
    assert (calibration["rule"], calibration["suite"]) == ("offline: occupancy", full(lerobot))
    assert "mean_score" not in calibration["numbers"]


def test_hdf5_with_a_column_mapping_of_ones_own(
    episodes: list[Any], writers: ModuleType, document: Documents, run: Run
) -> None:
    writers.write_hdf5(Path("demos"), episodes)
    Path("map.yaml").write_text(TINY_HDF5)
    document("profile", "tiny", "--data", "demos", "--data-map", "map.yaml", "--execute-horizon", "2")
    assert document("distill", "--stage", "1")["stage"] == 1


def test_a_folder_does_not_stand_for_a_preset(lerobot: str, document: Documents) -> None:
    Path("lerobot").mkdir()  # a clone of that library, say
    document("profile", "tiny", "--data", lerobot, "--data-map", "lerobot", "--execute-horizon", "2")


def test_what_is_printed_says_that_no_robot_acted(lerobot: str, document: Documents, run: Run) -> None:
    document("profile", "tiny", "--data", lerobot, "--execute-horizon", "2")
    shown = run("distill", "--quiet")
    assert shown.exit_code == 0, shown.stderr
    assert "from recorded episodes" in shown.stdout and "no robot acted" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "it is not guessed"),
        (("--execute-horizon", "5"), "execute_horizon is 5, but the backbone predicts 4 actions"),
        (("--execute-horizon", "2", "--max-success-drop", "1pp"), "--max-success-drop is found in closed loop"),
        (("--execute-horizon", "2", "--target-ms", "1"), "--target-ms is found in closed loop"),
        (("--execute-horizon", "2", "--method", "dysl-paper", "--target-layers", "5"), "only 'dysl' can"),
        (("--execute-horizon", "2", "--target-layers", "30"), "30 layers: the model has 8"),
        (("--execute-horizon", "2", "--target-layers", "8", "--stage", "1"), "only stage 1 was asked for"),
        (("--execute-horizon", "2", "--set", "distill.suites=[tiny_reach]"), "distill.suites names tiny_reach"),
    ],
)
def test_what_a_recording_cannot_tell_is_refused(
    lerobot: str, document: Documents, run: Run, arguments: tuple[str, ...], message: str
) -> None:
    document("profile", "tiny", "--data", lerobot)
    failed = run("distill", "--quiet", *arguments)
    assert failed.exit_code == 2 and message in " ".join(failed.stderr.split())
    assert not Path("runs/tiny/distill").exists()  # before any training


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
    assert (calibration["rule"], calibration["suite"]) == ("offline: predicted damage below 0.1", full("hdf5"))
