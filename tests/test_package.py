from __future__ import annotations

import pytest

import dyslctl
from dyslctl.jobs.recipe import load_policy
from dyslctl.types import ActionChunk, Observation


def test_what_a_robot_needs_is_at_hand() -> None:
    assert (dyslctl.load_policy, dyslctl.Observation, dyslctl.ActionChunk) == (load_policy, Observation, ActionChunk)
    assert all(hasattr(dyslctl, name) for name in dyslctl.__all__)


def test_no_other_name_is() -> None:
    with pytest.raises(AttributeError, match="module 'dyslctl' has no attribute 'load_polcy'"):
        _ = dyslctl.load_polcy
