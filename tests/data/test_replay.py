from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from dyslctl.data.of_suite import SuiteSource
from dyslctl.data.replay import RecordedSuite
from dyslctl.errors import ConfigError, PluginError
from dyslctl.jobs.trajectories import roll_out
from dyslctl.policy import full_policy

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach


@pytest.fixture
def recorded(tiny_suite: type[TinyReach]) -> RecordedSuite:
    return RecordedSuite(SuiteSource(tiny_suite(), episodes=11), execute_horizon=2)


def test_the_scene_follows_the_recording_whatever_the_policy_does(recorded: RecordedSuite) -> None:
    (spec,) = recorded.episodes("train", 1)
    expected = recorded.demonstrate(spec).observations
    environment = recorded.make()
    seen = [environment.reset(spec).proprio]
    np.testing.assert_array_equal(environment.render(), expected[0].images["agent"])
    done = False
    while not done:
        result = environment.step(np.array([0.1, -0.1, 1.0], np.float32))
        seen.append(result.observation.proprio)
        done = result.done
        assert result.score == 0 and not result.new_instruction
    np.testing.assert_array_equal(np.array(seen), np.array([frame.proprio for frame in expected]))


def test_a_policy_remembers_its_own_chunks_along_the_recording(
    recorded: RecordedSuite, tiny_backbone: type[TinyBackbone]
) -> None:
    """Inferences stand ``execute_horizon`` steps apart, and remember what was predicted one inference before."""
    backbone = tiny_backbone()
    specs = recorded.episodes("tune", 1)
    (found,) = list(roll_out(full_policy(backbone, 2), recorded, specs))
    frames = recorded.demonstrate(specs[0]).observations
    assert [o.proprio.tolist() for o in found.observations if o.proprio is not None] == [
        o.proprio.tolist() for o in frames[: len(frames) - 1 : 2] if o.proprio is not None
    ]
    memory = found.remembered()
    assert memory[0] is None
    for before, after in zip(found.observations, memory[1:], strict=False):
        np.testing.assert_allclose(full_policy(backbone, 4).select_action(before).normalized, after, atol=1e-5)


def test_learning_and_held_out_episodes_never_meet(recorded: RecordedSuite) -> None:
    train = {spec.seed % 11 for spec in recorded.episodes("train", 50)}
    tune = {spec.seed % 11 for spec in recorded.episodes("tune", 50)}
    assert train == set(range(11)) - {9} and tune == {9}
    assert recorded.available("train", 300) == 10 and recorded.available("tune", 1) == 1
    with pytest.raises(ConfigError, match="no test split"):
        recorded.episodes("test", 1)


def test_a_second_pass_shows_other_frames(recorded: RecordedSuite) -> None:
    """Episode by episode: the same ones in another order, beginning one step later."""
    specs = recorded.episodes("train", 20)
    assert [spec.index for spec in specs] == list(range(20))
    first, second = [s.seed % 11 for s in specs[:10]], [s.seed % 11 for s in specs[10:]]
    assert sorted(first) == sorted(second) and first != second
    again = {spec.seed % 11: spec for spec in specs[10:]}
    for spec in specs[:10]:
        before, after = recorded.demonstrate(spec), recorded.demonstrate(again[spec.seed % 11])
        np.testing.assert_array_equal(before.actions[1:], after.actions)
        assert len(after.observations) == len(after.actions)


def test_the_order_depends_on_the_seed_alone(recorded: RecordedSuite) -> None:
    other = RecordedSuite(recorded.source, 2, seed=1)
    assert recorded.episodes("train", 5) == recorded.episodes("train", 9)[:5] != other.episodes("train", 5)


def test_a_new_instruction_is_a_new_one(tiny_suite: type[TinyReach]) -> None:
    chain = RecordedSuite(SuiteSource(tiny_suite(chain=2), episodes=3), execute_horizon=2)
    spec = chain.episodes("train", 1)[0]
    frames = chain.demonstrate(spec).observations
    environment = chain.make()
    environment.reset(spec)
    results = [environment.step(np.zeros(3, np.float32)) for _ in frames[1:]]
    changes = [number for number, result in enumerate(results) if result.new_instruction]
    assert changes == [n for n in range(len(frames) - 1) if frames[n].instruction != frames[n + 1].instruction]
    assert len(changes) == 1


@pytest.mark.parametrize("action", [np.zeros(2, np.float32), np.array([0.0, np.nan, 0.0])])
def test_an_action_that_no_robot_takes_is_refused(recorded: RecordedSuite, action: np.ndarray) -> None:
    environment = recorded.make()
    environment.reset(recorded.episodes("train", 1)[0])
    with pytest.raises(PluginError, match=r"expected a finite action \[3\]"):
        environment.step(action)


def test_the_horizon_must_be_said(recorded: RecordedSuite) -> None:
    with pytest.raises(ConfigError, match="execute_horizon: expected at least 1, found 0"):
        RecordedSuite(recorded.source, 0)
