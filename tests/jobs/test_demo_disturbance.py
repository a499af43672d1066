"""Pushes: how often, how long, how hard, and the same ones every time."""

from __future__ import annotations

import numpy as np
import pytest

from dyslctl.errors import ConfigError
from dyslctl.jobs.demo_disturbance import Disturbance
from dyslctl.suite import EpisodeSpec
from dyslctl.types import Observation

MEANT = np.array([0.5, 0, -0.25, 1], np.float32)
SEEN = Observation({}, "anything")


def spec(seed: int) -> EpisodeSpec:
    return EpisodeSpec("suite", "train", 0, "task", seed)


def executed(how: Disturbance, seed: int, steps: int) -> np.ndarray:
    disturb = how.of(spec(seed))
    return np.stack([disturb(MEANT, SEEN) for _ in range(steps)])


def test_how_often_a_push_begins() -> None:
    # 8 pushed steps of 40: the 32 free ones before it end with probability 1/33 each.
    assert Disturbance(0.2).begin == pytest.approx(1 / 33)
    assert Disturbance(0.5, steps=1).begin == pytest.approx(0.5)


def test_pushes_take_their_share_of_the_steps() -> None:
    pushed = (executed(Disturbance(0.15), 0, 40_000) != MEANT).any(1)
    assert pushed.mean() == pytest.approx(0.15, abs=0.015)


def test_a_push_lasts_is_even_and_spares_the_gripper() -> None:
    actions = executed(Disturbance(0.1, spread=0.05, steps=5), 1, 2000)
    assert actions.dtype == np.float32 and (actions[:, -1] == 1).all()
    pushes = np.round(actions[:, :-1] - MEANT[:-1], 5)
    ends = np.flatnonzero((pushes[1:] != pushes[:-1]).any(1)) + 1
    lengths = {len(run) for run in np.split(pushes, ends)[:-1] if run[0].any()}
    assert lengths == {5}
    assert pushes[pushes.any(1)].std() == pytest.approx(0.05, abs=0.01)


def test_executed_actions_stay_in_range() -> None:
    assert np.abs(executed(Disturbance(0.5, spread=3.0), 2, 200)).max() == 1


def test_an_episode_is_always_disturbed_in_the_same_way() -> None:
    how = Disturbance(0.3)
    np.testing.assert_array_equal(executed(how, 3, 100), executed(how, 3, 100))
    assert not np.array_equal(executed(how, 3, 100), executed(how, 4, 100))


@pytest.mark.parametrize("share", [0.0, -0.1, 0.51, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="--disturb: expected a share"):
        Disturbance(share)
