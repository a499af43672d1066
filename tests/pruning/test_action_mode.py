from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.errors import ConfigError
from dyslctl.pruning.action_mode import Mode, Velocity, check_action, next_mode, velocity
from dyslctl.pruning.settings import PRUNING, PruningSettings

SPEEDS = st.builds(
    Velocity,
    st.sampled_from([0.0, 0.3, 0.5, 0.7]),
    st.sampled_from([0.0, 0.1, 0.2, 0.4]),
    st.sampled_from([-0.2, 0.0, 0.2]),
)


def test_velocity_by_hand() -> None:
    """(.3, 0, -.4) is .5 long, (.06, .08, 0) is .1; the gripper counts for neither, wherever it is."""
    action = np.array([0.3, 0.0, -0.4, 0.06, 0.08, 0.0, 1.0], np.float32)
    found = velocity(action, 6)
    assert math.isclose(found.translation, 0.5, rel_tol=1e-6) and math.isclose(found.rotation, 0.1, rel_tol=1e-6)
    assert math.isclose(found.rise, -0.4, rel_tol=1e-6)
    assert velocity(np.roll(action, 1), 0) == found
    assert velocity(action, None) == found, "a last dimension of no known meaning is neither"


def test_fewer_dimensions_have_neither_height_nor_rotation() -> None:
    assert velocity(np.array([3.0, 4.0, 1.0]), 2) == Velocity(5.0, 0.0, 0.0)


def test_two_arms_are_refused() -> None:
    check_action(7)
    with pytest.raises(ConfigError, match="at most 7 action dimensions, found 14"):
        check_action(14)


@pytest.mark.parametrize(
    ("last", "from_coarse", "from_fine"),
    [
        (Velocity(0.49, 0.19, 0.0), "fine", "fine"),
        (Velocity(0.49, 0.19, 0.01), "coarse", "fine"),  # rising keeps out of fine mode, but does not end it
        (Velocity(0.5, 0.2, 0.0), "coarse", "fine"),  # at the thresholds nothing changes
        (Velocity(0.51, 0.0, 0.0), "coarse", "coarse"),
        (Velocity(0.0, 0.21, 0.0), "coarse", "coarse"),
    ],
)
def test_modes_by_hand(last: Velocity, from_coarse: Mode, from_fine: Mode) -> None:
    assert (next_mode("coarse", last, PRUNING), next_mode("fine", last, PRUNING)) == (from_coarse, from_fine)


def test_thresholds_are_settings() -> None:
    settings = PruningSettings(fine_translation=0.3, fine_rotation=0.1)
    assert next_mode("coarse", Velocity(0.4, 0.0, 0.0), settings) == "coarse"
    assert next_mode("fine", Velocity(0.0, 0.15, 0.0), settings) == "coarse"


@given(st.lists(SPEEDS, max_size=20))
def test_fine_is_since_a_slow_descent_that_nothing_fast_has_followed(speeds: list[Velocity]) -> None:
    """The hysteresis against its meaning, over the whole past at once."""
    mode: Mode = "coarse"
    for last in speeds:
        mode = next_mode(mode, last, PRUNING)
    entered = [i for i, v in enumerate(speeds) if v.translation < 0.5 and v.rotation < 0.2 and v.rise <= 0]
    fast = [i for i, v in enumerate(speeds) if v.translation > 0.5 or v.rotation > 0.2]
    expected = max(entered, default=-1) > max(fast, default=-1) or any(all(not e < f for f in fast) for e in entered)
    assert (mode == "fine") == expected
