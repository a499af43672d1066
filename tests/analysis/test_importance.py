from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.analysis.importance import Disturbance, Watch, importance, lengths, parts
from dyslctl.jobs.episodes import EpisodeRecord
from dyslctl.policy import full_policy

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach


@given(st.integers(1, 12), st.integers(0, 60))
def test_every_inference_lies_in_one_part(count: int, length: int) -> None:
    for inference in range(length):
        assert sum(Disturbance(part, count, 1.0, {}).holds(inference, length) for part in range(count)) == 1
    assert not any(Disturbance(part, count, 1.0, {}).holds(length, length) for part in range(count))


def test_parts_by_hand(make_record: Callable[..., EpisodeRecord]) -> None:
    def notes(*rows: tuple[float, float]) -> list[dict[str, float]]:
        return [{"speed": speed, "flip": flip} for speed, flip in rows]

    first = make_record(0, noted=notes((1.0, 0.0), (2.0, 0.0), (3.0, 1.0), (4.0, 0.0)))
    second = make_record(1, noted=notes((5.0, 0.0), (6.0, 1.0)))
    begin, end = parts([first, second], 2)
    assert (begin.start, begin.stop, end.start, end.stop) == (0.0, 0.5, 0.5, 1.0)
    assert (begin.inferences, begin.speed, begin.flips) == (1.5, pytest.approx(8 / 3), 0.0)
    assert (end.inferences, end.speed, end.flips) == (1.5, pytest.approx(13 / 3), 1.0)


def test_only_its_part_is_disturbed(
    backbone: TinyBackbone, suite: TinyReach, play: Callable[..., list[list[tuple[Any, Any]]]]
) -> None:
    specs = suite.episodes("test", 2)
    plain = play(full_policy(backbone, 2), suite, specs)
    begins = {spec.seed: len(episode) for spec, episode in zip(specs, plain, strict=True)}
    disturbed = play(Disturbance(1, 5, 0.3, begins)(full_policy(backbone, 2)), suite, specs)
    for before, after in zip(plain, disturbed, strict=True):
        first = -(-len(before) // 5)
        same = [np.array_equal(a[0].actions, b[0].actions) for a, b in zip(before[:first], after[:first], strict=True)]
        assert all(same)
        assert not np.array_equal(before[first][0].actions, after[first][0].actions)


def test_the_shift_is_one_vector_and_scales_with_the_noise(backbone: TinyBackbone, suite: TinyReach) -> None:
    spec = suite.episodes("test", 1)[0]
    observation = suite.make().reset(spec)
    chunks = []
    for noise in (1e-9, 0.1, 0.2):
        policy = Disturbance(0, 1, noise, {spec.seed: 5}, seed=3)(full_policy(backbone, 4))
        policy.reset(spec.seed)
        chunks.append(policy.select_action(observation).normalized)
    shift, twice = chunks[1] - chunks[0], chunks[2] - chunks[0]
    np.testing.assert_allclose(shift[:, :2], np.broadcast_to(shift[0, :2], (4, 2)), atol=1e-6)
    np.testing.assert_allclose(twice[:, :2], 2 * shift[:, :2], atol=1e-6)
    assert np.abs(shift[0, :2]).min() > 0


def test_a_further_instruction_goes_on_counting(backbone: TinyBackbone, suite: TinyReach) -> None:
    spec = suite.episodes("test", 1)[0]
    observation, length = suite.make().reset(spec), 4
    disturbed = Disturbance(1, 2, 0.5, {10: length})(full_policy(backbone, 2))
    plain = full_policy(backbone, 2)
    plain.reset(0)
    as_before = plain.select_action(observation).actions
    disturbed.reset(10)
    same = []
    for inference in range(length + 1):
        if inference == 3:
            disturbed.reset(11)  # the second subtask
        same.append(np.array_equal(disturbed.select_action(observation).actions, as_before))
    assert same == [True, True, False, False, True]


def test_watching_changes_nothing(
    backbone: TinyBackbone, suite: TinyReach, play: Callable[..., list[list[tuple[Any, Any]]]]
) -> None:
    specs = suite.episodes("test", 2)
    plain, watched = (
        play(policy, suite, specs) for policy in (full_policy(backbone, 2), Watch()(full_policy(backbone, 2)))
    )
    for one, other in zip(plain, watched, strict=True):
        assert [chunk.actions.tolist() for chunk, _ in one] == [chunk.actions.tolist() for chunk, _ in other]
        assert all("speed" in report.noted for _, report in other)


def test_success_of_each_part(make_record: Callable[..., EpisodeRecord]) -> None:
    undisturbed = [make_record(index) for index in range(3)]
    (found,) = importance(undisturbed, {(1, 0.5): [make_record(index, index == 0) for index in range(3)]})
    assert (found.part, found.noise, found.success.losses) == (1, 0.5, 2)
    assert lengths([make_record(0, inferences=7), make_record(1, inferences=9)], 5) == {50: 7, 55: 9}
