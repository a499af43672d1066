from __future__ import annotations

import numpy as np
import pytest

from dyslctl.dysl.calibration import CalibrationData, Recording, occupancy_etas, quantile_etas, tau_by_quantile
from dyslctl.dysl.guidance import ChunkPolicy, GuidanceSettings
from dyslctl.dysl.partition import Segment
from dyslctl.errors import ConfigError

SEGMENTS = (Segment(1, 4), Segment(5, 9))


def episode(places: np.ndarray, chunk: int = 1) -> Recording:
    return [places[i : i + chunk, None] for i in range(0, len(places), chunk)]


def wandering(episodes: int = 12, policy: ChunkPolicy = "chunk_min", chunk: int = 4) -> CalibrationData:
    """Smooth cruising, then a restless phase: what a reach and a grasp look like."""
    rng = np.random.default_rng(0)
    speed = np.concatenate([rng.normal(0.02, 0.005, (episodes, 24)), rng.normal(0, 0.3, (episodes, 24))], axis=1)
    recordings = [episode(np.cumsum(row), chunk) for row in speed]
    return CalibrationData(recordings, SEGMENTS, GuidanceSettings(-1.0, 0.0, k=3, chunk_policy=policy))


def test_quantiles_by_hand() -> None:
    """k = 1: steps 0, 1, 3, 2, 2 change by -1, -2, +1, 0. Quartiles: Q25 = -1.25, Q75 = 0.25."""
    places = np.cumsum([0.0, 0, 1, 3, 2, 2])
    data = CalibrationData([episode(places)], SEGMENTS, GuidanceSettings(-1.0, 0.0, k=1, chunk_policy="per_action"))
    assert [signal.fall for signal in data.signals()] == [-1, -2, 1, 0]
    result = quantile_etas(data, 0.25, 0.25)
    assert (result.eta_1, result.eta_2) == pytest.approx((-1.25, 0.25))


def test_eta_2_is_never_negative() -> None:
    result = quantile_etas(wandering(), 0.1, 0.99)
    assert result.eta_2 == 0.0


def test_protection_by_hand() -> None:
    """Seven dynamic layers; one fall of 2 at eta_1 = -1 forces 2 + 2 of them, from the next inference on."""
    places = np.cumsum([0.0, 0, 2, 2, 2])
    data = CalibrationData([episode(places)], SEGMENTS, GuidanceSettings(-9.0, 0.0, k=1))
    mean, fully = data.protection(eta_1=-1.0, eta_2=0.5)
    assert mean == pytest.approx((0 + 0 + 0 + 4 / 7 + 4 / 7) / 5)
    assert fully == 0.0
    assert data.protection(eta_1=-0.25, eta_2=0.5) == pytest.approx((2 / 5, 2 / 5))


@pytest.mark.parametrize("policy", ["chunk_min", "per_action", "chunk_end"])
@pytest.mark.parametrize("target", [0.15, 0.4])
def test_occupancy_meets_its_target(policy: ChunkPolicy, target: float) -> None:
    data = wandering(policy=policy)
    result = occupancy_etas(data, target, p2=0.3)
    assert result.protected_fraction == pytest.approx(target, abs=0.06)
    assert (result.protected_fraction, result.fully_protected) == data.protection(result.eta_1, result.eta_2)
    GuidanceSettings(result.eta_1, result.eta_2)


def test_more_protection_needs_a_milder_eta_1() -> None:
    data = wandering()
    little, much = (occupancy_etas(data, target, p2=0.3) for target in (0.1, 0.5))
    assert little.eta_1 < much.eta_1 < 0
    assert little.p1 < much.p1


def test_episodes_do_not_leak_into_each_other() -> None:
    one = wandering(1)
    twice = CalibrationData([*one.recordings, *one.recordings], SEGMENTS, one.settings)
    assert twice.signals() == one.signals() * 2
    assert twice.protection(-0.05, 0.02) == pytest.approx(one.protection(-0.05, 0.02))


def test_useless_recordings_are_errors() -> None:
    settings = GuidanceSettings(-1.0, 0.0, k=5)
    with pytest.raises(ConfigError, match=r"k \+ 1 = 6"):
        quantile_etas(CalibrationData([episode(np.zeros(4))], SEGMENTS, settings), 0.1, 0.1)
    still = CalibrationData([episode(np.zeros(30))], SEGMENTS, settings)
    with pytest.raises(ConfigError, match="must be negative"):
        quantile_etas(still, 0.1, 0.1)
    with pytest.raises(ConfigError, match="never falls"):
        occupancy_etas(still, 0.2, 0.1)


def test_tau_lets_through_the_wanted_share() -> None:
    probabilities = {1: np.linspace(0, 0.5, 101), 4: np.linspace(0.9, 1, 101)}
    tau = tau_by_quantile(probabilities, 0.3)
    assert tau == pytest.approx({1: 0.35, 4: 0.97})
    assert [(values > tau[layer]).mean() for layer, values in probabilities.items()] == pytest.approx(
        [0.3, 0.3], abs=0.01
    )
    assert tau_by_quantile(probabilities, 1.0) == {1: 0.0, 4: 0.0} and tau_by_quantile(probabilities, 0.0) == {
        1: 1,
        4: 1,
    }
    alike = tau_by_quantile({3: np.full(5, 0.2)}, 0.4)[3]
    assert 0.19 < alike < 0.2
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        tau_by_quantile(probabilities, 1.2)
