from __future__ import annotations

import numpy as np
import pytest

from dyslctl.analysis.signals import Signals

GRIPPER = 3


def actions(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows)


def test_signals_by_hand() -> None:
    """k = 5: ``C`` needs six actions, ``delta C`` seven."""
    signals = Signals(GRIPPER)
    still, fast = (0.0, 0.0, 0.0, 1.0), (0.6, 0.8, 0.0, 1.0)
    first = signals.commit(actions(still, still, still))
    assert first == {"speed": 0.0, "turning": 0.0, "rise": 0.0, "fine": 1.0, "flip": 0.0}
    second = signals.commit(actions(still, still, fast))
    assert second["continuity"] == pytest.approx(-0.2) and "delta" not in second
    assert (second["speed"], second["fine"]) == (pytest.approx(1.0), 0.0)
    third = signals.commit(actions(fast, (0.6, 0.8, 0.0, -1.0)))
    assert third["delta"] == pytest.approx(-0.4), "a gripper flip adds 2/k"
    assert third["flip"] == 1.0
    assert signals.commit(actions(still))["flip"] == 1.0, "it opens again"


def test_a_preview_changes_nothing() -> None:
    signals, other = Signals(GRIPPER), Signals(GRIPPER)
    chunks = np.random.default_rng(0).normal(size=(4, 2, 4))
    for chunk in chunks:
        seen = signals.preview(chunk)
        signals.preview(-chunk)
        assert signals.commit(chunk) == seen == other.commit(chunk)


def test_without_a_gripper_there_is_no_flip() -> None:
    assert "flip" not in Signals(None).commit(np.zeros((2, 3)))


def test_reset_forgets() -> None:
    signals = Signals(GRIPPER)
    signals.commit(np.ones((8, 4)))
    signals.reset()
    assert "continuity" not in signals.commit(np.zeros((2, 4)))
