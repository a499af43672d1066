from pathlib import Path

import numpy as np
import pytest

from dyslctl.errors import PluginError
from dyslctl.jobs import trajectories
from dyslctl.jobs.simulators import simulators
from dyslctl.jobs.trajectories import Trajectory, demonstrate, roll_out
from dyslctl.policy import full_policy
from dyslctl.suite import EpisodeSpec
from dyslctl.types import Observation

SPEC = EpisodeSpec("hand", "train", 0, "task", 0)


def trajectory(gripper: list[list[float]], words: list[str]) -> Trajectory:
    """One-dimensional actions: the gripper alone; every chunk is executed whole."""
    made = Trajectory(SPEC)
    for chunk, word in zip(gripper, words, strict=True):
        actions = np.array(chunk, np.float32)[:, None]
        made.add(Observation({}, word), actions, actions, len(chunk))
    return made


def test_near_flip_marks_inferences_within_the_distance_on_both_sides() -> None:
    # Steps 0..9, two an inference; the gripper closes at step 5.
    made = trajectory([[-1, -1], [-1, -1], [-1, 1], [1, 1], [1, 1]], ["a"] * 5)
    assert made.near_flip(0, within=2).tolist() == [False, False, True, True, False]
    assert made.near_flip(0, within=3).tolist() == [False, True, True, True, True]


def test_near_flip_needs_a_gripper() -> None:
    assert trajectory([[-1, 1]], ["a"]).near_flip(None, within=9).tolist() == [False]


def test_recordings_are_cut_where_the_instruction_changes() -> None:
    made = trajectory([[1], [2], [3]], ["a", "a", "b"])
    assert made.restarts() == [0, 2]
    assert [[chunk[0, 0] for chunk in part] for part in made.recordings()] == [[1, 2], [3]]


def test_what_failed_is_nothing_to_learn_from() -> None:
    """Of a chain of three, two solved: without the third instruction. Of one alone, nothing."""
    made = trajectory([[1], [2], [3], [4]], ["a", "a", "b", "c"])
    made.score = 2
    assert [chunk[0, 0] for chunk in made.solved(3).chunks] == [1, 2, 3] and made.solved(2) is made
    alone = trajectory([[1], [2]], ["a", "a"])
    assert len(alone.solved(1)) == 0 == len(Trajectory(SPEC).solved(1))


def test_only_executed_actions_are_recorded() -> None:
    made = Trajectory(SPEC)
    chunk = np.arange(4, dtype=np.float32)[:, None]
    made.add(Observation({}, "a"), chunk, chunk, 2)
    assert made.executed_chunks()[0][:, 0].tolist() == [0, 1]


def test_remembered_is_the_whole_chunk_before_but_not_over_a_restart() -> None:
    """Predicted chunks of three, of which one action is chosen; a new instruction begins at the third inference."""
    made = Trajectory(SPEC)
    for index, word in enumerate(["a", "a", "b", "b"]):
        predicted = np.full((3, 1), index, np.float32)
        made.add(Observation({}, word), predicted[:1] + 10, predicted, 1)
    remembered = made.remembered()
    assert remembered[0] is None and remembered[2] is None
    assert [remembered[index].tolist() for index in (1, 3)] == [[[0]] * 3, [[2]] * 3]


def test_a_demonstration_is_cut_every_horizon_and_normalised(tiny_backbone, tiny_suite) -> None:
    backbone, suite = tiny_backbone(), tiny_suite()
    spec = suite.episodes("train", 1)[0]
    expert = suite.demonstrate(spec)
    made = demonstrate(backbone, suite, spec)
    assert len(made) == -(-len(expert.actions) // suite.execute_horizon)
    assert sum(made.executed) == len(expert.actions)
    np.testing.assert_allclose(made.chunks[1], backbone.normalize(expert.actions[2:6]), rtol=1e-6)
    assert all(
        np.array_equal(meant[:, :2], chunk[:, :2]) for meant, chunk in zip(made.predicted, made.chunks, strict=True)
    )
    assert set(np.concatenate(made.predicted)[:, 2]) == {-1.0, 1.0}, "the gripper as it is executed"


def test_a_demonstration_begins_anew_at_each_instruction(tiny_backbone, tiny_suite) -> None:
    made = demonstrate(tiny_backbone(), tiny_suite(chain=3), tiny_suite(chain=3).episodes("train", 1)[0])
    assert made.score == 3
    assert len(made.restarts()) == 3


@pytest.mark.parametrize("memory", [False, True])
def test_lockstep_episodes_equal_single_ones(tiny_backbone, tiny_suite, memory: bool) -> None:
    policy, suite = full_policy(tiny_backbone(memory=memory), tiny_suite.execute_horizon), tiny_suite()
    specs = suite.episodes("tune", 5)
    side_by_side = sorted(roll_out(policy, suite, specs, lanes=3), key=lambda made: made.spec.index)
    alone = list(roll_out(policy, suite, specs))
    assert [made.spec for made in side_by_side] == specs
    assert [made.spec for made in alone] == specs
    for many, one in zip(side_by_side, alone, strict=True):
        assert (many.executed, many.score) == (one.executed, one.score)
        np.testing.assert_allclose(np.stack(many.chunks), np.stack(one.chunks), atol=1e-5)


def test_a_head_with_memory_forgets_between_episodes(tiny_backbone, tiny_suite) -> None:
    policy, suite = full_policy(tiny_backbone(memory=True), tiny_suite.execute_horizon), tiny_suite()
    specs = suite.episodes("tune", 2)
    both = list(roll_out(policy, suite, specs))
    (second,) = roll_out(policy, suite, specs[1:])
    np.testing.assert_array_equal(np.stack(both[1].chunks), np.stack(second.chunks))


def test_a_rollout_records_what_was_seen_and_executed(tiny_backbone, tiny_suite) -> None:
    """Followed by hand: the policy's own steps in a simulator of ours."""
    policy, suite = full_policy(tiny_backbone(), tiny_suite.execute_horizon), tiny_suite()
    (spec,) = suite.episodes("tune", 1)
    (made,) = roll_out(policy, suite, [spec], lanes=4)
    world = suite.make()
    observation = world.reset(spec)
    for seen, chunk, meant in zip(made.observations[:3], made.chunks[:3], made.predicted[:3], strict=True):
        assert np.array_equal(seen.images["agent"], observation.images["agent"])
        predicted = policy.select_action(observation)
        np.testing.assert_allclose(chunk, predicted.normalized, atol=1e-6)
        np.testing.assert_allclose(meant, policy.last.predicted.normalized, atol=1e-6)
        assert (len(chunk), len(meant)) == (2, 4)
        for action in predicted.actions:
            observation = world.step(action).observation
    assert set(made.executed) == {tiny_suite.execute_horizon}
    assert sum(made.executed) == suite.max_steps and made.score == 0


def test_a_crash_in_a_rollout_is_raised(tiny_backbone, tiny_suite) -> None:
    policy, suite = full_policy(tiny_backbone(), tiny_suite.execute_horizon), tiny_suite()
    policy.backbone.norm.weight.fill_(float("nan"))
    with pytest.raises(PluginError, match="expected finite actions"):
        list(roll_out(policy, suite, suite.episodes("tune", 3), lanes=2))


def test_a_suite_without_an_expert_says_so(tiny_backbone, tiny_suite) -> None:
    class NoExpert(tiny_suite):
        def demonstrate(self, spec: EpisodeSpec):
            raise PluginError("no expert")

    with pytest.raises(PluginError, match="no expert"):
        demonstrate(tiny_backbone(), NoExpert(), SPEC)


def test_simulators_in_other_processes_change_nothing(tiny_backbone, tiny_suite, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))  # the processes import tiny.py
    backbone, suite = tiny_backbone(), tiny_suite(chain=2)
    policy = full_policy(backbone, suite.execute_horizon)
    asked = []

    def noted(suite, count, processes):
        asked.append(processes)
        return simulators(suite, count, processes)

    monkeypatch.setattr(trajectories, "simulators", noted)
    here, there = (
        sorted(roll_out(policy, suite, suite.episodes("train", 5), lanes=3, processes=n), key=lambda t: t.spec.index)
        for n in (1, 2)
    )
    assert asked == [1, 2]
    assert list(roll_out(policy, suite, [], lanes=3, processes=2)) == []
    for one, other in zip(here, there, strict=True):
        assert (one.spec, one.score, one.executed) == (other.spec, other.score, other.executed)
        np.testing.assert_array_equal(np.concatenate(one.predicted), np.concatenate(other.predicted))
