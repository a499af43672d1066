"""The real simulator: ``make test-calvin``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dyslctl_calvin import initial_states, snapshot, tasks
from dyslctl_calvin.initial_states import SCENES, Scene
from dyslctl_calvin.installation import Installation, prepare
from dyslctl_calvin.sequences import initial_states as states
from dyslctl_calvin.settings import Look, Settings
from dyslctl_calvin.simulator import Simulator, make_env

from dyslctl import plugins
from dyslctl.jobs.workers import play
from dyslctl.policy import full_policy
from dyslctl.suite import EpisodeSpec, Split
from dyslctl.testing import check_suite

pytestmark = [pytest.mark.calvin, pytest.mark.filterwarnings("default")]

ACTIONS = np.append(np.random.default_rng(0).uniform(-1, 1, (40, 6)), np.resize([1, -1], (40, 1)), axis=1).astype(
    np.float16
)
"""Big movements."""


@pytest.fixture(scope="module")
def installation() -> Installation:
    return prepare(Settings.of())


@pytest.fixture
def simulator(installation: Installation) -> Iterator[Simulator]:
    made = Simulator(installation, "D")
    yield made
    made.close()


@pytest.mark.parametrize("name", ["calvin_d", "calvin_abc", "calvin_d_fixtures"])
def test_the_contract_of_a_task_suite(name: str) -> None:
    check_suite(plugins.load_suite(name), episodes=3)


def test_states_and_pictures_are_those_of_the_environments_own_reset_and_step(
    installation: Installation, simulator: Simulator
) -> None:
    """Bit for bit, though pictures are painted from snapshots in another world."""
    placement = initial_states.official(states()[100])
    official = make_env(installation, "D", Look())
    seen = official.reset(robot_obs=initial_states.ROBOT_OBS.copy(), scene_obs=placement.scene_obs())
    simulator.begin(placement)
    painter = snapshot.Painter(installation, "D", Look())
    for action in ACTIONS:
        np.testing.assert_array_equal(simulator.proprio(), np.float32(seen["robot_obs"]))
        np.testing.assert_array_equal(simulator.env.scene.get_obs(), seen["scene_obs"])
        for picture, view in zip(painter.paint(snapshot.take(simulator.env)), snapshot.VIEWS, strict=True):
            np.testing.assert_array_equal(picture, seen["rgb_obs"][f"rgb_{view}"])
        seen = official.step(action)[0]
        simulator.step(action)
    official.close()


def test_the_fast_renderer_changes_the_arm_alone(installation: Installation, simulator: Simulator) -> None:
    simulator.begin(initial_states.official(states()[100]))
    shown = snapshot.take(simulator.env)
    exact, fast = (snapshot.Painter(installation, "D", Look(name)).paint(shown) for name in ("tiny", "fast"))
    other = [np.any(a != b, -1) for a, b in zip(exact, fast, strict=True)]
    assert 0 < other[0].mean() < 0.1  # the arm, where it stands before the table
    assert other[0][:, 100:].mean() < 0.01  # and nothing in the other half
    assert other[1].mean() < 0.1
    small = snapshot.Painter(installation, "D", Look("fast", 84)).paint(shown)
    assert [picture.shape for picture in small] == [(84, 84, 3), (84, 84, 3)]
    np.testing.assert_array_equal(small[1], fast[1])


@pytest.mark.parametrize("scene", SCENES)
def test_an_episode_is_the_same_whatever_was_played_before(installation: Installation, scene: Scene) -> None:
    def play(simulator: Simulator, number: int) -> list[np.ndarray]:
        simulator.begin(initial_states.drawn(states()[number], scene, number))
        found = []
        for action in ACTIONS:
            simulator.step(action)
            found.append(snapshot.take(simulator.env))
        return found

    one, other = Simulator(installation, scene), Simulator(installation, scene)
    expected = play(one, 7)
    play(other, 150)
    play(one, 30)
    for again in (play(other, 7), play(one, 7)):
        np.testing.assert_array_equal(again, expected)
    one.close()
    other.close()


@pytest.mark.parametrize("scene", SCENES)
def test_blocks_lie_where_they_are_put(installation: Installation, scene: Scene) -> None:
    simulator = Simulator(installation, scene)
    for number in range(0, 192, 13):
        placement = initial_states.drawn(states()[number], scene, number)
        simulator.begin(placement)
        for _ in range(30):
            simulator.step(np.array([0, 0, 0, 0, 0, 0, 1], np.float16))
        for block in simulator.env.scene.movable_objects:
            put = placement.blocks[block.name.removeprefix("block_")]
            np.testing.assert_allclose(block.get_state()[:3], put[:3], atol=0.003)
    simulator.close()


def test_worlds_do_not_disturb_each_other(installation: Installation) -> None:
    """As many bodies in each: upstream puts the pedestal of the second robot into the first world."""
    import pybullet

    worlds = [Simulator(installation, scene) for scene in ("D", "D", "A")]
    counts = [pybullet.getNumBodies(physicsClientId=world.env.cid) for world in worlds]
    assert counts == [7, 7, 7]
    worlds[0].close()
    worlds[0].close()
    fourth = Simulator(installation, "B")
    del worlds[0]
    assert pybullet.getNumBodies(physicsClientId=fourth.env.cid) == 7  # the first one's number, and still there
    for world in (*worlds, fourth):
        world.close()


@pytest.mark.parametrize(
    ("name", "split", "index"), [("calvin_d", "test", 18), ("calvin_abc", "train", 1), ("calvin_abc", "train", 2)]
)
def test_the_expert_solves_a_chain_and_a_replay_is_the_same(name: str, split: Split, index: int) -> None:
    suite = plugins.load_suite(name)
    spec = suite.episodes(split, index + 1)[index]
    shown = suite.demonstrate(spec)
    assert shown.score == 5 and len(shown.actions) < 5 * 200
    environment = suite.make()
    environment.reset(spec)
    results = [environment.step(action) for action in shown.actions]
    assert (results[-1].done, results[-1].score) == (True, 5)
    for step in (0, len(results) // 2):
        one, other = results[step].observation, shown.observations[step + 1]
        np.testing.assert_array_equal(one.images["gripper"], other.images["gripper"])
    environment.close()


def test_the_embedded_policy_solves_chains() -> None:
    """Of chains that nothing was trained on, under the default renderer, which it did not see in training."""
    roboflamingo, suite = plugins.load_backbone("roboflamingo"), plugins.load_suite("calvin_d_fixtures")
    policy = full_policy(roboflamingo.load(roboflamingo.default_checkpoint()), suite.execute_horizon)
    tasks = [(spec, "full") for spec in suite.episodes("tune", 4)]
    records = list(play(suite, {"full": lambda: policy}, tasks))
    assert [record.status for record in records] == ["done"] * 4
    assert sum(record.score for record in records) >= 12  # of 20


def test_the_oracle_sees_the_drawer_move_and_nothing_else(simulator: Simulator) -> None:
    simulator.begin(initial_states.official(states()[0]))
    start = simulator.info()
    assert not any(simulator.solved(task, start, simulator.info()) for task in tasks.TASKS)
    door = simulator.env.scene.doors[1]
    door.reset(0.13)
    assert [task for task in tasks.TASKS if simulator.solved(task, start, simulator.info())] == ["open_drawer"]
    half = simulator.info()
    door.reset(0.005)
    assert [task for task in tasks.TASKS if simulator.solved(task, half, simulator.info())] == ["close_drawer"]


def test_the_oracle_knows_the_same_tasks(simulator: Simulator) -> None:
    assert set(simulator._oracle.tasks) == set(tasks.TASKS)


def test_nothing_is_printed_where_results_go(installation: Installation, capfd: pytest.CaptureFixture[str]) -> None:
    made = Simulator(installation, "D")
    made.begin(initial_states.official(states()[0]))
    made.step(ACTIONS[0])
    made.close()
    del made
    assert capfd.readouterr().out == ""


def test_an_evaluation_says_what_it_depends_on() -> None:
    found = plugins.load_suite("calvin_d").identity()
    assert found["pybullet"] == "3.2.7" and found["renderer"] == "tiny" and found["sequences"] == "604957a8a2d3"


def test_a_wrong_spec_is_refused_before_anything_moves() -> None:
    environment: Any = plugins.load_suite("calvin_d").make()
    spec = EpisodeSpec("calvin_d", "test", 0, "chain", 0)
    first = environment.reset(spec)
    with pytest.raises(Exception, match="has no episode"):
        environment.reset(replace(spec, seed=4))
    np.testing.assert_array_equal(environment.render(), first.images["static"])
    environment.close()
