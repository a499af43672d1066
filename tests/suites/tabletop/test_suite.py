from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dyslctl.errors import ConfigError, PluginError
from dyslctl.jobs.demo_disturbance import Disturbance
from dyslctl.plugins import load_suite
from dyslctl.suite import StepResult
from dyslctl.suites.tabletop import TabletopChain, TabletopObject, TabletopSpatial
from dyslctl.suites.tabletop.expert import IDLE, expert
from dyslctl.suites.tabletop.render import render
from dyslctl.suites.tabletop.suite import TabletopEnvironment
from dyslctl.suites.tabletop.world import World
from dyslctl.testing import check_suite
from dyslctl.types import Observation

SUITES = [TabletopObject, TabletopSpatial, TabletopChain]
Suite = TabletopObject | TabletopSpatial | TabletopChain


@pytest.fixture(params=SUITES, ids=[suite.name for suite in SUITES])
def suite(request: pytest.FixtureRequest) -> Suite:
    made: Suite = request.param()
    return made


def test_the_contract_holds(suite: Suite) -> None:
    check_suite(suite, episodes=2)


def test_suites_are_found_by_name(suite: Suite) -> None:
    assert type(load_suite(suite.name)) is type(suite)


def test_limits() -> None:
    assert (TabletopObject.max_score, TabletopObject.max_steps) == (1, 160)
    assert (TabletopSpatial.max_score, TabletopSpatial.max_steps) == (1, 160)
    assert (TabletopChain.max_score, TabletopChain.max_steps) == (5, 800)
    assert all((suite.execute_horizon, suite.action_dim) == (4, 7) for suite in SUITES)


def test_equal_specs_give_equal_pixels_and_the_batched_worlds(suite: Suite) -> None:
    spec = suite.episodes("tune", 6)[5]
    one, two = suite.make().reset(spec), suite.make().reset(spec)
    world = World.sample(suite.kind, np.array([spec.seed]))
    batched = dict(zip(("agent", "wrist"), render(world), strict=True))
    for view in ("agent", "wrist"):
        np.testing.assert_array_equal(one.images[view], two.images[view])
        np.testing.assert_array_equal(one.images[view], batched[view][0])
    assert one.instruction == two.instruction == world.instructions()[0]
    assert one.proprio is not None
    np.testing.assert_array_equal(one.proprio, world.proprio()[0])


def test_episodes_differ_from_each_other(suite: Suite) -> None:
    environment = suite.make()
    first, second = (environment.reset(spec).images["agent"] for spec in suite.episodes("test", 11)[::10])
    assert not np.array_equal(first, second), "the same task, another scene"


def test_splits_share_no_seed(suite: Suite) -> None:
    seeds = [{spec.seed for spec in suite.episodes(split, 500)} for split in ("train", "tune", "test")]
    assert len(set.union(*seeds)) == 1500


def test_a_demonstration_is_one_observation_an_action(suite: Suite) -> None:
    demonstration = suite.demonstrate(suite.episodes("train", 1)[0])
    assert demonstration.score == suite.max_score
    assert demonstration.actions.shape == (len(demonstration.observations), 7)
    assert demonstration.actions[-1, 6] == -1.0, "it ends by letting go"


def test_a_disturbed_demonstration_holds_what_the_expert_means_wherever_the_pushes_led(suite: Suite) -> None:
    spec, executed = suite.episodes("train", 1)[0], list[np.ndarray]()
    push = Disturbance(0.15).of(spec)

    def disturb(action: np.ndarray, observation: Observation) -> np.ndarray:
        executed.append(push(action, observation))
        return executed[-1]

    shown = suite.demonstrate_disturbed(spec, disturb)
    assert shown.score == suite.max_score
    assert 0 < np.mean([not np.array_equal(*pair) for pair in zip(executed, shown.actions, strict=True)]) < 0.4
    environment = suite.make()
    environment.reset(spec)
    for seen, meant, action in zip(shown.observations, shown.actions, executed, strict=True):
        np.testing.assert_array_equal(seen.proprio, environment.world.proprio()[0])
        np.testing.assert_array_equal(meant, expert(environment.world)[0])
        environment.step(action)


def test_a_spec_of_another_task_is_refused(suite: Suite) -> None:
    spec = suite.episodes("train", 2)[0]
    with pytest.raises(ConfigError, match=f"'{suite.tasks[0]}', found task '{suite.tasks[1]}'"):
        suite.make().reset(replace(spec, task=suite.tasks[1]))


def test_bad_actions_are_refused() -> None:
    environment = _started(TabletopObject(), 0)
    with pytest.raises(PluginError, match=r"expected an action of shape \[7\], found \[8, 7\]"):
        environment.step(np.zeros((8, 7)))
    with pytest.raises(PluginError, match="finite"):
        environment.step(np.full(7, np.nan))


def test_an_observation_shows_its_own_moment_however_late_one_looks() -> None:
    suite = TabletopObject()
    spec = suite.episodes("train", 1)[0]
    environment = suite.make()
    first = environment.reset(spec)
    environment.step(np.array([1, 1, -1, 0, 0, 0, 1]))
    assert list(first.images) == ["agent", "wrist"]
    np.testing.assert_array_equal(first.images["agent"], suite.make().reset(spec).images["agent"])


def test_reset_comes_first() -> None:
    with pytest.raises(PluginError, match="reset"):
        TabletopObject().make().step(np.zeros(7))


def test_a_picture_for_people() -> None:
    picture = _started(TabletopObject(), 0).render()
    assert picture.shape == (256, 256, 3) and picture.dtype == np.uint8


def test_a_chain_counts_until_its_first_failure() -> None:
    environment = _started(TabletopChain(), 2)
    results: list[StepResult] = []
    while not results or not results[-1].done:
        solved = results[-1].score if results else 0
        results.append(environment.step(expert(environment.world)[0] if solved < 2 else IDLE))
    started = [index for index, result in enumerate(results) if result.new_instruction]
    assert len(started) == 2 and results[-1].score == 2
    assert len(results) - 1 - started[-1] == 160, "the third instruction runs out of its own time"
    told = [results[index].observation.instruction for index in started]
    assert told[0] != told[1]


def test_the_last_instruction_of_a_chain_announces_no_other() -> None:
    environment = _started(TabletopChain(), 1)
    result = environment.step(IDLE)
    announced = 0
    while not result.done:
        result = environment.step(expert(environment.world)[0])
        announced += result.new_instruction
    assert (result.score, announced, result.new_instruction) == (5, 4, False)


def _started(suite: Suite, index: int) -> TabletopEnvironment:
    environment = suite.make()
    environment.reset(suite.episodes("train", index + 1)[index])
    return environment
