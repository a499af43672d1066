"""Which part of an episode matters (Fig. 1): success when the actions of one part of it are disturbed.

An episode is cut into equal parts of the length that it has when nothing disturbs it. In one of them every predicted
chunk is shifted by a random vector,

    A' = A + sigma e        e ~ N(0, 1) for each dimension, one draw an inference; the gripper before it is decided

The paper disturbs the model's weights instead. A shifted chunk is what that comes to, on any backbone, and sigma means
the same for all of them: 1 is half of the range from the 1st to the 99th percentile of the training actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from dyslctl.analysis.signals import Signals
from dyslctl.analysis.success import Success, success
from dyslctl.analysis.wrapped import Asking, Wrapped
from dyslctl.jobs.episodes import EpisodeRecord, reset_seed
from dyslctl.policy import Plan, Policy, Predict, Prediction, Request
from dyslctl.types import Observation


@dataclass(frozen=True)
class Disturbance:
    """What is done to the policy that plays (:class:`~dyslctl.jobs.closed_loop.Around`).

    Attributes:
        part: Which part of the episode, from 0.
        parts: How many there are.
        noise: ``sigma``, in the model's normalised action space.
        lengths: Inferences of the undisturbed episode, by the seed that begins it.
        seed: Of the noise. It does not depend on ``noise`` and ``part``: equal draws, scaled.
    """

    part: int
    parts: int
    noise: float
    lengths: Mapping[int, int]
    seed: int = 0

    def __call__(self, policy: Policy) -> Policy:
        """The disturbed policy."""
        return Disturbed(policy, self)

    def identity(self) -> dict[str, Any]:
        """For the manifest."""
        return {"part": self.part, "parts": self.parts, "noise": self.noise, "seed": self.seed}

    def holds(self, inference: int, length: int) -> bool:
        """Whether ``inference`` lies in the part, of an undisturbed episode of ``length`` inferences."""
        return self.part * length <= inference * self.parts < (self.part + 1) * length


class Disturbed(Wrapped):
    """Shifts the predictions of one part of each episode."""

    def __init__(self, inner: Policy, disturbance: Disturbance) -> None:
        super().__init__(inner)
        self._disturbance = disturbance
        self._episode = self._inference = 0

    def reset(self, seed: int = 0) -> None:
        """A seed that begins no episode is that of a further instruction: the count goes on."""
        super().reset(seed)
        if seed in self._disturbance.lengths:
            self._episode, self._inference = seed, -1

    def plan(self, observation: Observation) -> Plan:
        """One inference more."""
        self._inference += 1
        return (yield from super().plan(observation))

    def ask(self, request: Request) -> Asking:
        """What the backbone predicts, shifted if it is time."""
        answer = yield request
        length = self._disturbance.lengths.get(self._episode, 0)
        if isinstance(request, Predict) and self._disturbance.holds(self._inference, length):
            return self._shifted(answer)
        return answer

    def _shifted(self, prediction: Prediction) -> Prediction:
        predicted = prediction.predicted
        generator = np.random.default_rng([self._disturbance.seed, self._episode, self._inference])
        shift = self._disturbance.noise * generator.standard_normal(predicted.shape[-1])
        shifted = predicted + torch.from_numpy(shift).to(predicted)
        return replace(prediction, chunk=self.backbone.decode_action(shifted[None])[0], predicted=shifted)


class Watch:
    """Notes what each inference made the robot do (:class:`~dyslctl.jobs.closed_loop.Around`)."""

    def __call__(self, policy: Policy) -> Policy:
        """The watched policy."""
        return Watched(policy)

    def identity(self) -> dict[str, Any]:
        """For the manifest."""
        return {"watched": True}


class Watched(Wrapped):
    """Notes the signals after each chunk."""

    def __init__(self, inner: Policy) -> None:
        super().__init__(inner)
        self._signals = Signals(inner.backbone.spec.gripper_dim)

    def reset(self, seed: int = 0) -> None:
        """Forget the past."""
        super().reset(seed)
        self._signals.reset()

    def plan(self, observation: Observation) -> Plan:
        """The inner policy's step, and a note on it."""
        chunk = yield from super().plan(observation)
        self.last = replace(self.last, noted=self._signals.commit(chunk.normalized))
        return chunk


@dataclass(frozen=True)
class Part:
    """What the robot does in one part of the undisturbed episodes.

    Attributes:
        start: Where it begins, as a share of the episode.
        stop: Where it ends.
        inferences: Mean number an episode.
        speed: Mean ``|(dx, dy, dz)|``, normalised.
        flips: Mean number of inferences an episode that open or close the gripper; 0 without a gripper.
    """

    part: int
    start: float
    stop: float
    inferences: float
    speed: float
    flips: float


def parts(undisturbed: Sequence[EpisodeRecord], count: int) -> list[Part]:
    """``count`` equal parts of watched episodes."""
    found = []
    for part in range(count):
        here = Disturbance(part, count, 0.0, {})
        notes = [
            note for record in undisturbed for at, note in enumerate(record.noted) if here.holds(at, len(record.noted))
        ]
        found.append(
            Part(
                part,
                part / count,
                (part + 1) / count,
                len(notes) / len(undisturbed),
                float(np.mean([note["speed"] for note in notes])) if notes else 0.0,
                sum(note.get("flip", 0.0) for note in notes) / len(undisturbed),
            )
        )
    return found


def lengths(undisturbed: Sequence[EpisodeRecord], max_score: int) -> dict[int, int]:
    """Inferences of each episode, by the seed that its policy is reset with where it begins."""
    return {reset_seed(record.seed, 0, max_score): record.inferences for record in undisturbed}


@dataclass(frozen=True)
class Importance:
    """Success with one part disturbed."""

    part: int
    noise: float
    success: Success


def importance(
    undisturbed: Sequence[EpisodeRecord], disturbed: Mapping[tuple[int, float], Sequence[EpisodeRecord]]
) -> list[Importance]:
    """Success with each part disturbed by each noise, against the undisturbed episodes.

    Args:
        undisturbed: The baseline.
        disturbed: Part and noise -> the episodes.
    """
    return [Importance(*key, success(records, undisturbed)) for key, records in disturbed.items()]
