"""The real simulator: ``make test-libero``."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dyslctl_libero import control, golden, tasks
from dyslctl_libero.expert import expert
from dyslctl_libero.expert.hand import Hand
from dyslctl_libero.expert.scene import Scene
from dyslctl_libero.initial_states import draw_fixtures, fixture_poses
from dyslctl_libero.installation import prepare
from dyslctl_libero.settings import Settings
from dyslctl_libero.simulator import IDLE, SNAPSHOT, Simulator
from dyslctl_libero.snapshot import CAMERAS, Painter
from dyslctl_libero.tasks import TASKS, SuiteName

from dyslctl import plugins
from dyslctl.errors import PluginError
from dyslctl.jobs.workers import play
from dyslctl.policy import full_policy
from dyslctl.suite import TaskSuite
from dyslctl.testing import check_suite

pytestmark = [pytest.mark.libero, pytest.mark.filterwarnings("default")]

SOLVED: dict[SuiteName, int] = {"libero_spatial": 2, "libero_object": 0, "libero_goal": 8, "libero_10": 0}
"""A task of each suite that the expert solves."""


@pytest.fixture(scope="module")
def installation() -> Any:
    return prepare(Settings.of())


@pytest.mark.parametrize("name", list(TASKS))
def test_the_expert_solves_an_episode_and_a_replay_is_the_same(name: SuiteName) -> None:
    suite = plugins.load_suite(name)
    spec = suite.episodes("test", 10)[SOLVED[name]]
    demonstration = suite.demonstrate(spec)
    assert demonstration.score == 1 and len(demonstration.actions) <= suite.max_steps
    environment = suite.make()
    first = environment.reset(spec)
    images = first.painted().images
    assert [image.shape for image in images.values()] == [(256, 256, 3)] * 2
    assert all(np.ptp(image) > 100 for image in images.values())
    np.testing.assert_array_equal(images["agent"], demonstration.observations[0].images["agent"])
    results = [environment.step(action) for action in demonstration.actions]
    assert (results[-1].done, results[-1].score) == (True, 1)
    assert results[-2].observation.proprio is not None and demonstration.observations[-1].proprio is not None
    np.testing.assert_array_equal(results[-2].observation.proprio, demonstration.observations[-1].proprio)
    environment.close()


def test_the_experts_hand_turns_as_it_is_asked_to() -> None:
    suite = plugins.load_suite("libero_spatial")
    environment = suite.make()
    environment.reset(suite.episodes("train", 1)[0])
    hand = Hand(Scene(environment.scene.env))
    for action in hand.go(hand.scene.hand, hand.start_yaw + 0.5, turned=0.05):
        environment.step(action)
    assert hand.yaw - hand.start_yaw == pytest.approx(0.5, abs=0.06)
    environment.close()


def test_a_used_scene_shows_what_a_new_one_does() -> None:
    suite = plugins.load_suite("libero_goal")
    first, _, again = (suite.demonstrate(spec) for spec in (suite.episodes("train", 19)[i] for i in (8, 18, 8)))
    np.testing.assert_array_equal(first.actions, again.actions)
    for one, other in zip(first.observations[::20], again.observations[::20], strict=True):
        np.testing.assert_array_equal(one.images["wrist"], other.images["wrist"])


def test_both_moka_pots_get_on_the_stove() -> None:
    suite = plugins.load_suite("libero_10")
    demonstration = suite.demonstrate(suite.episodes("train", 9)[8])
    assert demonstration.score == 1 and len(demonstration.actions) <= suite.max_steps


@pytest.mark.parametrize("name", ["libero_goal", "libero_10"])
def test_the_expert_refuses_the_tasks_that_are_said_to_be_without_skill(name: SuiteName) -> None:
    suite, refused = plugins.load_suite(name), []
    environment: Any = suite.make()
    for spec in suite.episodes("train", 10):
        environment.reset(spec)
        try:
            expert(environment.scene)
        except PluginError:
            refused.append(spec.task)
    environment.close()
    assert set(refused) == tasks.WITHOUT_SKILL & set(suite.tasks)


@pytest.mark.parametrize("name", list(TASKS))
def test_the_golden_frame_is_reproduced(name: SuiteName) -> None:
    about = plugins.load_suite(name).identity()
    assert about["mujoco"] == "3.3.2"
    assert about["golden_frame"] == "reproduced" or about["scene_files"] not in golden.REFERENCES


def test_the_tasks_are_the_benchmarks_own(installation: Any) -> None:
    names: dict[str, Any] = {}
    exec((installation.root / "benchmark" / "libero_suite_task_map.py").read_text(), names)  # noqa: S102
    assert {suite: tuple(names["libero_task_map"][suite]) for suite in TASKS} == TASKS


@pytest.mark.parametrize(("suite", "number"), [("libero_spatial", 4), ("libero_10", 9)])
def test_fixtures_stand_where_resets_in_order_put_them(installation: Any, suite: SuiteName, number: int) -> None:
    """The released evaluation: one seed a task, a reset with a newly loaded model before each trial."""
    task = TASKS[suite][number]
    bddl = installation.root / "bddl_files" / suite / f"{task}.bddl"
    released = control._control_env(installation.assets)(
        bddl_file_name=str(bddl), has_offscreen_renderer=False, use_camera_obs=False, control_freq=20
    )
    with control.seeded(0):
        for trial in range(3):
            released.env.reset()
            model = released.env.sim.model
            for fixture, pose in fixture_poses(suite, task, trial).items():
                body = released.env.obj_body_id[fixture]
                np.testing.assert_array_equal(np.r_[model.body_pos[body], model.body_quat[body]], pose)
    released.close()
    ours = control.make(installation, suite, task)
    for fixture, poses in draw_fixtures(ours, 3).items():
        if fixture in fixture_poses(suite, task, 0):
            np.testing.assert_array_equal(poses[2], fixture_poses(suite, task, 2)[fixture])
    ours.close()


def test_pictures_and_states_are_those_of_the_released_evaluation(installation: Any) -> None:
    """Bit for bit, though the model is kept, and pictures are painted from snapshots in another context."""
    suite: SuiteName = "libero_goal"
    task = TASKS[suite][7]
    bddl = installation.root / "bddl_files" / suite / f"{task}.bddl"
    released = control._control_env(installation.assets)(
        bddl_file_name=str(bddl), has_offscreen_renderer=True, camera_heights=128, camera_widths=128, control_freq=20
    )
    ours = Simulator(installation, suite, task)
    ours.begin_seeded(1)  # whatever was played before
    ours.step(np.ones(7))
    painter = Painter(ours.model, "exact", 128)
    with control.seeded(0):
        released.env.reset()
    released.set_init_state(ours._states[0])
    for _ in range(10):
        released.step(IDLE)
    ours.begin_official(0)
    for action in np.random.default_rng(0).uniform(-1, 1, (4, 7)):
        expected = released.step(action)[0]
        ours.step(action)
        np.testing.assert_allclose(ours.observed["robot0_eef_pos"], expected["robot0_eef_pos"], atol=1e-12)
        for picture, camera in zip(painter.paint(ours.observed[SNAPSHOT]), CAMERAS, strict=True):
            np.testing.assert_array_equal(picture, expected[f"{camera}_image"][::-1, ::-1])
    released.close()
    painter.close()
    ours.close()


def test_the_contract_of_a_task_suite() -> None:
    check_suite(plugins.load_suite("libero_object"), episodes=2)


def test_a_suite_travels_to_a_worker_process() -> None:
    suite: TaskSuite = pickle.loads(pickle.dumps(plugins.load_suite("libero_object")))  # noqa: S301
    assert suite.episodes("test", 1) == [tasks.episode("libero_object", "test", 0)]


def test_the_fast_renderer_is_close_to_the_exact_one(installation: Any) -> None:
    scene = Simulator(installation, "libero_object", TASKS["libero_object"][0])
    scene.begin_official(0)
    snapshot = scene.observed[SNAPSHOT]
    pictures = {}
    for kind in ("exact", "fast"):
        painter = Painter(scene.model, kind, 128)  # type: ignore[arg-type]
        pictures[kind] = np.stack(painter.paint(snapshot)).astype(float)
        painter.close()
    assert 0 < np.abs(pictures["exact"] - pictures["fast"]).mean() < 6
    scene.close()


def test_the_embedded_policy_puts_things_into_the_basket(monkeypatch: pytest.MonkeyPatch) -> None:
    """On official initial states, which it was not trained on, seen as it was trained."""
    oft = pytest.importorskip("dyslctl_openvla_oft")
    monkeypatch.setenv("DYSLCTL_LIBERO_RENDERER", "fast")
    monkeypatch.setenv("DYSLCTL_LIBERO_IMAGE_SIZE", "128")
    suite, backbone = plugins.load_suite("libero_object"), oft.OpenVLAOFT.load("mini-libero-object")
    tasks = [(spec, "full") for spec in suite.episodes("test", 4)]
    records = list(play(suite, {"full": lambda: full_policy(backbone, suite.execute_horizon)}, tasks))
    assert [record.status for record in records] == ["done"] * 4
    assert sum(record.success for record in records) >= 3


def test_setup_renders_a_frame(tmp_path: Path) -> None:
    from dyslctl_libero.__main__ import app
    from PIL import Image
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, ["render", "--out", str(tmp_path / "frame.png")])
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "frame.png") as frame:
        assert frame.size == (512, 256)


def test_how_far_the_expert_gets() -> None:
    from dyslctl_libero.__main__ import app
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, ["expert", "--suite", "libero_object", "--episodes", "1"])
    assert result.exit_code == 0, result.output
    task, total = result.output.splitlines()
    assert task.startswith("1 of 1  pick_up_the_") and total.startswith("1 of 1 initial states of libero_object, ")
