"""Thresholds from recorded rollouts: ``eta_1`` and ``eta_2`` of Eq. 2-3, and each controller's ``tau``.

The paper publishes none of them. Recordings are what the full model executed, so that calibration sees the same
actions, chunk by chunk, that the guidance will see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dyslctl.dysl.guidance import GuidanceSettings, Signal, SkipGuidance
from dyslctl.dysl.partition import Segment
from dyslctl.errors import ConfigError

Recording = Sequence[np.ndarray]
"""One episode: the executed part of each chunk, ``[n, A]`` normalised, in order."""


@dataclass(frozen=True)
class EtaCalibration:
    """Thresholds and what they do on the recordings they came from.

    Attributes:
        eta_1: Falls below it count.
        eta_2: Rises above it count.
        p1: Share of the recorded falls below ``eta_1``.
        p2: Share of the recorded rises above ``eta_2``, before ``eta_2`` was raised to 0 if need be.
        protected_fraction: Mean share of the dynamic layers that the skipping-allow points would force to run.
        fully_protected: Share of the inferences at which they would force them all.
    """

    eta_1: float
    eta_2: float
    p1: float
    p2: float
    protected_fraction: float
    fully_protected: float


@dataclass(frozen=True)
class CalibrationData:
    """Recordings together with what their continuity is measured by.

    Attributes:
        recordings: Episodes of the full model.
        segments: Of the partition to calibrate for.
        settings: Everything but the ``eta``s is read: ``k``, chunk policy, stride, weights.
        gripper_dim: Of an action, or ``None``.
    """

    recordings: Sequence[Recording]
    segments: Sequence[Segment]
    settings: GuidanceSettings
    gripper_dim: int | None = None

    def signals(self) -> list[Signal]:
        """Every fall and rise that the guidance would see. They do not depend on the thresholds."""
        guidance = SkipGuidance(self.segments, self.settings, self.gripper_dim)
        found: list[Signal] = []
        for recording in self.recordings:
            guidance.reset()
            for actions in recording:
                found += guidance.commit(actions).signals
        if not found:
            raise ConfigError(
                f"no recorded episode is longer than the k + 1 = {self.settings.k + 1} actions continuity needs",
                hint="record longer episodes, or lower k",
            )
        return found

    def protection(self, eta_1: float, eta_2: float) -> tuple[float, float]:
        """Replay the allow points: mean protected fraction, and the share of inferences with all layers forced."""
        settings = replace(self.settings, eta_1=eta_1, eta_2=eta_2)
        guidance = SkipGuidance(self.segments, settings, self.gripper_dim)
        fractions = []
        for recording in self.recordings:
            guidance.reset()
            for actions in recording:
                fractions.append(guidance.allow_points.protected_fraction)
                guidance.commit(actions)
        return float(np.mean(fractions)), float(np.mean(np.array(fractions) == 1.0))


def quantile_etas(data: CalibrationData, p1: float, p2: float) -> EtaCalibration:
    """``eta_1 = Q_{p1}(fall)``, ``eta_2 = max(0, Q_{1-p2}(rise))``.

    Raises:
        ConfigError: If there are no signals, or ``Q_{p1}`` is not below 0.
    """
    signals = data.signals()
    eta_1, eta_2 = _quantiles(signals, p1, p2)
    if eta_1 >= 0:
        raise ConfigError(
            f"the {p1:.0%} quantile of the recorded continuity changes is {eta_1:.4g}; eta_1 must be negative",
            hint="choose a smaller p1, or record policies whose motion varies",
        )
    return EtaCalibration(eta_1, eta_2, p1, p2, *data.protection(eta_1, eta_2))


def occupancy_etas(data: CalibrationData, target: float, p2: float, *, steps: int = 24) -> EtaCalibration:
    """The ``p1`` whose mean protected fraction comes closest to ``target``, by bisection at fixed ``p2``.

    Points move forward by at least 2 and back by 1, so protection is far larger than ``p1`` itself.

    Args:
        data: Recordings of the full model.
        target: Mean share of the dynamic layers to protect, in (0, 1).
        p2: Share of the rises that move the points back.
        steps: Bisection steps.

    Raises:
        ConfigError: If there are no signals, or none of them is a fall.
    """
    signals = data.signals()
    falls = sorted(signal.fall for signal in signals)
    largest = float(np.mean(np.array(falls) < 0))
    if largest == 0:
        raise ConfigError("continuity never falls in the recordings: there is nothing to calibrate eta_1 on")

    def calibrate(p1: float) -> EtaCalibration:
        eta_1, eta_2 = _quantiles(signals, p1, p2)
        eta_1 = min(eta_1, max(fall for fall in falls if fall < 0))
        return EtaCalibration(eta_1, eta_2, p1, p2, *data.protection(eta_1, eta_2))

    return _bisect(calibrate, largest, target, steps)


def _bisect(calibrate: Callable[[float], EtaCalibration], largest: float, target: float, steps: int) -> EtaCalibration:
    """Protection grows with ``p1``, in jumps: keep the closest of all that were tried."""
    low, high = 0.0, largest
    tried = [calibrate(low), calibrate(high)]
    for _ in range(steps):
        tried.append(calibrate((low + high) / 2))
        if tried[-1].protected_fraction < target:
            low = tried[-1].p1
        else:
            high = tried[-1].p1
    return min(tried, key=lambda result: abs(result.protected_fraction - target))


def _quantiles(signals: Sequence[Signal], p1: float, p2: float) -> tuple[float, float]:
    eta_1 = float(np.quantile([signal.fall for signal in signals], p1))
    eta_2 = max(0.0, float(np.quantile([signal.rise for signal in signals], 1 - p2)))
    return eta_1, eta_2


def tau_by_quantile(probabilities: Mapping[int, np.ndarray], skip_rate: float) -> dict[int, float]:
    """Per controller, the ``tau`` above which a share ``skip_rate`` of its recorded probabilities lies (equals too).

    Args:
        probabilities: Dynamic layer -> probabilities of its controller on recorded observations.
        skip_rate: In [0, 1]; at the ends none and all, whatever is seen later.

    Raises:
        ConfigError: If the rate is out of range.
    """
    if not 0 <= skip_rate <= 1:
        raise ConfigError(f"the skip rate must lie in [0, 1], found {skip_rate}")
    if skip_rate in (0, 1):
        return dict.fromkeys(probabilities, 1.0 - skip_rate)
    return {layer: _just_below(np.quantile(values, 1 - skip_rate)) for layer, values in probabilities.items()}


def _just_below(value: float) -> float:
    """A controller skips above its threshold, so that ``value`` itself does too."""
    return max(float(np.nextafter(value, -np.inf)), 0.0)
