"""Does continuity tell when skipping does harm (Fig. 6)? And does it tell better than other signals?

Three measurements, all on the same initial states. Skipping always means a method at its most willing, so that nothing
else decides when to skip.

1. The full model plays. Before each inference the continuity ``C`` of the last actions is noted, and what the method
   would have predicted there: its damage, the distance to the full model's actions relative to their motion.
2. The range of ``C`` is cut into equal pieces. For each, the method skips only where ``C`` lies in it, and every layer
   runs elsewhere: the success that this loses is the accuracy loss of that range.
3. Each signal ranks the inferences of 1; its AUC says how well it tells the most damaged tenth from the rest.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import rankdata

from dyslctl.analysis.signals import K, Signals
from dyslctl.analysis.success import Success, success
from dyslctl.analysis.wrapped import Asking, Wrapped
from dyslctl.dysl.exits import relative_damage
from dyslctl.engine import FullSchedule
from dyslctl.errors import ConfigError
from dyslctl.jobs.episodes import EpisodeRecord
from dyslctl.jobs.statistics import crossed_bootstrap, percentile_interval
from dyslctl.policy import Plan, Policy, Predict, Prediction, Request
from dyslctl.types import Observation

Note = Mapping[str, float]
RESAMPLES = 1000
TAIL = 0.02
"""Share of the inferences that may lie below the lowest border: one outlier must not stretch the ranges."""

SIGNALS: Mapping[str, tuple[str, Callable[[Note], float | None]]] = {
    "asked": ("the method's own answer", lambda note: note.get("asked")),
    "delta after": ("delta C, skipped chunk", lambda note: _minus(note.get("after_delta"))),
    "flip after": ("gripper flip, skipped chunk", lambda note: note.get("after_flip")),
    "delta": ("delta C", lambda note: _minus(note.get("delta"))),
    "continuity": ("C", lambda note: _minus(note.get("continuity"))),
    "speed": ("slowness", lambda note: _minus(note.get("speed"))),
    "fine": ("SpecPrune's fine mode", lambda note: note.get("fine")),
    "flip": ("gripper flip", lambda note: note.get("flip")),
}
"""Name -> what a reader calls it, and its value in a note: large where the coming action matters.

Those with ``after`` read the prediction made by skipping, as post-skip verification does; ``asked`` is what the
method's own planner or controllers say; the others know past actions only, as pre-skip prediction does.
"""


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


@dataclass(frozen=True)
class Probe:
    """Plays the full model, and notes what skipping would do (:class:`~dyslctl.jobs.closed_loop.Around`).

    Attributes:
        sign: 1 if the method's answer to "skip?" is a damage, -1 if it is a probability of skipping.
    """

    sign: int

    def __call__(self, policy: Policy) -> Policy:
        """Around the method that would skip."""
        return _Probing(policy, self.sign)

    def identity(self) -> dict[str, Any]:
        """For the manifest."""
        return {"probe": self.sign}


@dataclass(frozen=True)
class Gate:
    """Skips only where the last known ``C`` lies in ``[low, high)`` (:class:`~dyslctl.jobs.closed_loop.Around`)."""

    low: float
    high: float

    def __call__(self, policy: Policy) -> Policy:
        """Around the method that skips."""
        return _Gated(policy, self)

    def identity(self) -> dict[str, Any]:
        """For the manifest."""
        return {"continuity": [str(self.low), str(self.high)]}

    def opens(self, known: Note) -> bool:
        """Not while ``C`` is undefined."""
        return "continuity" in known and self.low <= known["continuity"] < self.high


class _Guided(Wrapped):
    """Knows the signals of the actions that were executed so far, and notes them before each inference."""

    def __init__(self, inner: Policy) -> None:
        super().__init__(inner)
        self.signals = Signals(inner.backbone.spec.gripper_dim)
        self.known: dict[str, float] = {}

    def reset(self, seed: int = 0) -> None:
        """Nothing executed yet."""
        super().reset(seed)
        self.signals.reset()
        self.known = {}

    def plan(self, observation: Observation) -> Plan:
        """The inner policy's step; then the signals move on."""
        chunk = yield from super().plan(observation)
        self.last = replace(self.last, noted=self.known | self.notes(len(chunk)))
        self.known = self.signals.commit(chunk.normalized)
        return chunk

    @abstractmethod
    def notes(self, executed: int) -> dict[str, float]:
        """What else is noted, ``executed`` actions being about to be."""


class _Gated(_Guided):
    """Runs every layer unless the gate is open."""

    def __init__(self, inner: Policy, gate: Gate) -> None:
        super().__init__(inner)
        self._gate = gate

    def ask(self, request: Request) -> Asking:
        """The request, with every layer if the gate is closed."""
        if isinstance(request, Predict) and not self._gate.opens(self.known):
            request = replace(request, schedule=FullSchedule())
        return (yield request)

    def notes(self, executed: int) -> dict[str, float]:
        """Whether the gate was open."""
        return {"open": float(self._gate.opens(self.known))}


class _Probing(_Guided):
    """Predicts by skipping, throws that away, and goes on with every layer."""

    _skipped: Prediction
    _full: Prediction

    def __init__(self, inner: Policy, sign: int) -> None:
        super().__init__(inner)
        self._sign = sign

    def ask(self, request: Request) -> Asking:
        """Both predictions from one state; the head remembers the full one."""
        if not isinstance(request, Predict):
            return (yield request)
        memory = self.backbone.snapshot()
        self._skipped = yield replace(request, state=request.state.fork())
        self.backbone.restore(memory)
        self._full = yield replace(request, schedule=FullSchedule())
        return self._full

    def notes(self, executed: int) -> dict[str, float]:
        """Damage of the skipped prediction, what it would look like, and what the method said of skipping."""
        skipped, full = (each.predicted[None].float() for each in (self._skipped, self._full))
        damage = relative_damage(skipped, full, executed, self.backbone.spec.gripper_dim)
        noted = {"damage": float(damage), "skipped_layers": float(len(self._skipped.trace.layers_run))}
        after = self.signals.preview(self._skipped.chunk.normalized[:executed])
        noted |= {f"after_{name}": after[name] for name in ("delta", "flip") if name in after}
        if self.last.consulted:
            noted["asked"] = self._sign * self.last.consulted[0].answer
        return noted


def borders(probed: Sequence[EpisodeRecord], count: int) -> list[float]:
    """The ``count + 1`` borders of as many equally wide ranges of ``C``; the outermost are infinite.

    Raises:
        ConfigError: If continuity never became defined, or never changed.
    """
    values = np.array([note["continuity"] for record in probed for note in record.noted if "continuity" in note])
    if len(values) == 0 or np.ptp(values) == 0:
        raise ConfigError(
            f"continuity needs episodes of more than {K} actions that are not all alike, found {len(values)} values",
            hint="--episodes with more of them, or another --suite",
        )
    low, high = float(np.quantile(values, TAIL)), float(values.max())
    return [-math.inf, *np.linspace(low, high, count + 1)[1:-1].tolist(), math.inf]


@dataclass(frozen=True)
class Range:
    """What skipping does where ``C`` lies in ``[low, high)``.

    Attributes:
        share: Of the full model's inferences with a known ``C``.
        inferences: How many of them.
        damage: Mean relative damage of skipping there, with its 95 % interval, bootstrapped over episodes; ``None``
            where there was no inference.
        skipped: Inferences an episode that skipped, when skipping was let in this range only.
        success: Of those episodes, against the full model.
    """

    low: float
    high: float
    inferences: int
    share: float
    damage: float | None
    damage_low: float | None
    damage_high: float | None
    skipped: float
    success: Success


def ranges(probed: Sequence[EpisodeRecord], gated: Mapping[Gate, Sequence[EpisodeRecord]]) -> list[Range]:
    """One for each gate.

    Args:
        probed: Episodes of the full model, with the notes of :class:`Probe`.
        gated: The episodes that skipped behind each gate, from the same initial states.
    """
    total = sum("continuity" in note for record in probed for note in record.noted)
    found = []
    for gate, records in gated.items():
        inside = [[note["damage"] for note in record.noted if gate.opens(note)] for record in probed]
        count = sum(map(len, inside))
        skipped = sum(note["open"] for record in records for note in record.noted) / len(records)
        damage = _mean_over_episodes(inside)
        found.append(Range(gate.low, gate.high, count, count / total, *damage, skipped, success(records, probed)))
    return found


def _mean_over_episodes(values: Sequence[Sequence[float]]) -> tuple[float | None, float | None, float | None]:
    """Mean of all values, and its interval, whole episodes being resampled."""
    sums = np.array([[sum(each), len(each)] for each in values])
    if not sums[:, 1].any():
        return None, None, None
    draws = crossed_bootstrap(sums[None])
    drawn = draws[draws[:, 1] > 0]
    return float(sums[:, 0].sum() / sums[:, 1].sum()), *percentile_interval(drawn[:, 0] / drawn[:, 1])


@dataclass(frozen=True)
class Ranking:
    """How well a signal tells the inferences that skipping damages most from the others.

    Attributes:
        signal: As in :data:`SIGNALS`.
        auc: Chance that it is larger for one of the damaged than for one of the others; 0.5 is guessing. With its
            95 % interval, bootstrapped over episodes.
        over_delta: ``auc`` less that of ``delta C``, with its interval from the same resamples.
    """

    signal: str
    name: str
    inferences: int
    damaged: int
    auc: float
    auc_low: float
    auc_high: float
    over_delta: float
    over_delta_low: float
    over_delta_high: float


def rankings(probed: Sequence[EpisodeRecord], damaged_share: float, seed: int = 0) -> list[Ranking]:
    """The AUC of each signal that every inference knows; those at which ``delta C`` is undefined are left out.

    Args:
        probed: Episodes of the full model, with the notes of :class:`Probe`.
        damaged_share: Of the inferences, those with the most damage, that are to be told from the rest.
        seed: Of the resampling.

    Raises:
        ConfigError: If ``delta C`` is never defined.
    """
    notes = [[note for note in record.noted if "delta" in note and "after_delta" in note] for record in probed]
    flat = [note for each in notes for note in each]
    if len(flat) < 2:
        raise ConfigError(f"continuity needs at least two inferences with a known delta C, found {len(flat)}")
    damage = np.array([note["damage"] for note in flat])
    damaged = rankdata(damage, "ordinal") > len(flat) - max(1, round(damaged_share * len(flat)))
    columns = {key: [read(note) for note in flat] for key, (_, read) in SIGNALS.items()}
    known = {key: np.array(column) for key, column in columns.items() if None not in column}
    episodes = np.repeat(np.arange(len(notes)), [len(each) for each in notes])
    drawn = _resampled(known, damaged, episodes, np.random.default_rng(seed))
    whole = {key: auc(values, damaged) for key, values in known.items()}
    return [
        Ranking(
            key,
            SIGNALS[key][0],
            len(flat),
            int(damaged.sum()),
            whole[key],
            *percentile_interval(drawn[key]),
            whole[key] - whole["delta"],
            *percentile_interval(drawn[key] - drawn["delta"]),
        )
        for key in known
    ]


def auc(values: np.ndarray, positive: np.ndarray) -> float:
    """Area under the receiver operating characteristic, ties counted half (Hanley and McNeil 1982).

    Args:
        values: ``[n]``, large where ``positive`` is expected.
        positive: ``[n]`` bool, neither all nor none.
    """
    hits = int(positive.sum())
    ranks = rankdata(values)[positive].sum()
    return float((ranks - hits * (hits + 1) / 2) / (hits * (len(values) - hits)))


def _resampled(
    known: Mapping[str, np.ndarray], damaged: np.ndarray, episodes: np.ndarray, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """AUCs of resampled episodes: ``[RESAMPLES]`` each; a draw without both kinds is drawn again."""
    places = [np.flatnonzero(episodes == episode) for episode in np.unique(episodes)]
    drawn: dict[str, list[float]] = {key: [] for key in known}
    while len(drawn["delta"]) < RESAMPLES:
        rows = np.concatenate([places[index] for index in random.integers(len(places), size=len(places))])
        if 0 < damaged[rows].sum() < len(rows):
            for key, values in known.items():
                drawn[key].append(auc(values[rows], damaged[rows]))
    return {key: np.array(values) for key, values in drawn.items()}
