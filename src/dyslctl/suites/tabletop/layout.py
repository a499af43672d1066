"""Initial states. A seed alone fixes everything: which task, which blocks, and where everything is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dyslctl.suites.tabletop.geometry import BINS, MAX_BLOCKS
from dyslctl.suites.tabletop.tasks import (
    BLACK,
    CHAINS,
    KINDS,
    OBJECT_COLOURS,
    RELATIONS,
    SuiteKind,
    subject_and_bin,
    task_of,
)

BLOCK_AREA = ((-0.75, -0.75), (0.75, 0.12))
BLOCK_SEPARATION = 0.3
BIN_AREA = ((-0.72, 0.45), (0.72, 0.72))
BIN_SEPARATION = 0.46
"""Along ``x`` (the area is shallower than this), so that bins never overlap."""
BLOCK_YAW = 0.4
GRIPPER_AREA = ((-0.25, -0.2, 0.6), (0.25, 0.2, 0.8))
RELATION_MARGIN = 0.15
"""Least distance, on the axis that matters, between the block that is meant and the runner-up."""
OBJECT_BLOCKS, SPATIAL_BLOCKS = 4, 3
MIDDLE = 1
"""Rank of the middle one of three."""
_CANDIDATES = 64

Predicate = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Layout:
    """One scene before the first action. Slots are in a canonical order: by colour, or left to right if all are black.

    Attributes:
        block_xy: ``[5, 2]``, zero where no block is present.
        block_yaw: ``[5]`` radians.
        block_present: ``[5]`` bool.
        block_colour: ``[5]`` indices into ``COLOURS``.
        bin_xy: ``[2, 2]``, centres of the purple and the orange bin.
        gripper: ``[3]``.
        targets: ``[S]`` block slots, one an instruction.
        goals: ``[S]`` bins, one an instruction.
    """

    block_xy: np.ndarray
    block_yaw: np.ndarray
    block_present: np.ndarray
    block_colour: np.ndarray
    bin_xy: np.ndarray
    gripper: np.ndarray
    targets: np.ndarray
    goals: np.ndarray


def sample_layout(kind: SuiteKind, seed: int) -> Layout:
    """The initial state of ``seed``."""
    rng = np.random.default_rng((KINDS.index(kind), seed))
    slots, xy, targets, goals = _SAMPLERS[kind](rng, task_of(seed))
    block_xy = np.zeros((MAX_BLOCKS, 2), np.float32)
    block_xy[slots] = xy
    present = np.zeros(MAX_BLOCKS, bool)
    present[slots] = True
    return Layout(
        block_xy=block_xy,
        block_yaw=rng.uniform(-BLOCK_YAW, BLOCK_YAW, MAX_BLOCKS).astype(np.float32),
        block_present=present,
        block_colour=np.full(MAX_BLOCKS, BLACK) if kind == "spatial" else np.arange(MAX_BLOCKS),
        bin_xy=_first_valid(rng, BIN_AREA, len(BINS), lambda xy: _gap(xy[..., 0]) >= BIN_SEPARATION),
        gripper=rng.uniform(*GRIPPER_AREA).astype(np.float32),
        targets=np.array(targets),
        goals=np.array(goals),
    )


_Drawn = tuple[np.ndarray, np.ndarray, list[int], list[int]]
"""Used slots, their ``[n, 2]`` positions, target slots, goal bins."""


def _object(rng: np.random.Generator, task: int) -> _Drawn:
    colour, goal = subject_and_bin("object", task)
    others = np.delete(np.arange(len(OBJECT_COLOURS)), colour)
    slots = np.append(colour, rng.permutation(others)[: OBJECT_BLOCKS - 1])
    return slots, _first_valid(rng, BLOCK_AREA, OBJECT_BLOCKS, _separate), [colour], [goal]


def _spatial(rng: np.random.Generator, task: int) -> _Drawn:
    relation, goal = subject_and_bin("spatial", task)

    def valid(xy: np.ndarray) -> np.ndarray:
        return np.asarray(_separate(xy) & (margin(relation, xy) >= RELATION_MARGIN))

    xy = _first_valid(rng, BLOCK_AREA, SPATIAL_BLOCKS, valid)
    xy = xy[np.argsort(xy[:, 0])]
    return np.arange(SPATIAL_BLOCKS), xy, [int(related(relation, xy))], [goal]


def _chain(rng: np.random.Generator, task: int) -> _Drawn:
    colours, goals = zip(*CHAINS[task], strict=True)
    return np.arange(MAX_BLOCKS), _first_valid(rng, BLOCK_AREA, MAX_BLOCKS, _separate), list(colours), list(goals)


_SAMPLERS: dict[SuiteKind, Callable[[np.random.Generator, int], _Drawn]] = {
    "object": _object,
    "spatial": _spatial,
    "chain": _chain,
}


def related(relation: int, xy: np.ndarray) -> np.ndarray:
    """Index of the block that ``RELATIONS[relation]`` means, among ``[..., 3, 2]`` positions."""
    key, rank = _RANKING[RELATIONS[relation]]
    return np.asarray(np.argsort(xy[..., key], axis=-1)[..., rank])


def margin(relation: int, xy: np.ndarray) -> np.ndarray:
    """How far ``[..., 3, 2]`` positions are from ambiguity: the gap to the (nearer) runner-up."""
    key, rank = _RANKING[RELATIONS[relation]]
    gaps = np.diff(np.sort(xy[..., key], axis=-1), axis=-1)
    return np.asarray(gaps.min(-1) if rank == MIDDLE else gaps[..., rank])


_RANKING = {"leftmost": (0, 0), "rightmost": (0, -1), "nearest": (1, 0), "farthest": (1, -1), "middle": (0, MIDDLE)}
"""Relation -> (axis, rank of the block that is meant along it)."""


def _first_valid(
    rng: np.random.Generator, area: tuple[tuple[float, ...], tuple[float, ...]], count: int, valid: Predicate
) -> np.ndarray:
    """Rejection sampling, many candidates at a time: the first ``[count, 2]`` uniform draw that is ``valid``."""
    while True:
        drawn = rng.uniform(*area, size=(_CANDIDATES, count, 2)).astype(np.float32)
        good = np.flatnonzero(valid(drawn))
        if len(good):
            return np.asarray(drawn[good[0]])


def _separate(xy: np.ndarray) -> np.ndarray:
    """Whether the blocks of each ``[C, n, 2]`` candidate keep their distance."""
    first, second = np.triu_indices(xy.shape[1], 1)
    return np.asarray(np.linalg.norm(xy[:, first] - xy[:, second], axis=-1).min(-1) >= BLOCK_SEPARATION)


def _gap(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(values[..., 0] - values[..., 1]))
