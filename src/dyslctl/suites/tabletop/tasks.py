"""The thirty tasks: their ids, their words, and the seeds of their episodes."""

from __future__ import annotations

from typing import Literal

import numpy as np

from dyslctl.errors import ConfigError
from dyslctl.suite import Split
from dyslctl.suites.tabletop.geometry import BINS, COLOURS

SuiteKind = Literal["object", "spatial", "chain"]
KINDS: tuple[SuiteKind, ...] = ("object", "spatial", "chain")
TASKS_PER_SUITE = 10
CHAIN_LENGTH = 5
OBJECT_COLOURS = COLOURS[:5]
"""Colours of ``object`` and ``chain``. Slot ``j`` of such a scene holds the block of colour ``j``."""
BLACK = COLOURS.index("black")
RELATIONS = ("leftmost", "rightmost", "nearest", "farthest", "middle")
"""As the agent camera sees it: left is small ``x``, near is small ``y``, the middle one has the median ``x``."""

SPLIT_SIZE = 10_000_000
SPLIT_OFFSET: dict[Split, int] = {"train": 0, "tune": SPLIT_SIZE, "test": 2 * SPLIT_SIZE}
"""Episode ``index`` of a split has seed ``SPLIT_OFFSET[split] + index``, so splits share no seed."""


def _draw_chain(rng: np.random.Generator) -> tuple[tuple[int, int], ...]:
    colours = rng.permutation(CHAIN_LENGTH).tolist()
    bins = rng.integers(len(BINS), size=CHAIN_LENGTH).tolist()
    return tuple(zip(colours, bins, strict=True))


_CHAIN_RNG = np.random.default_rng(2026)
CHAINS = tuple(_draw_chain(_CHAIN_RNG) for _ in range(TASKS_PER_SUITE))
"""``CHAINS[task][stage]`` is ``(colour, bin)``: each block once, in a fixed order, into a fixed bin."""


def episode_seed(split: Split, index: int) -> int:
    """The seed of episode ``index``.

    Raises:
        ConfigError: If the split has no such episode.
    """
    if not 0 <= index < SPLIT_SIZE:
        raise ConfigError(f"split '{split}' of the table top has episodes 0 to {SPLIT_SIZE - 1}, found {index}")
    return SPLIT_OFFSET[split] + index


def task_of(seed: int) -> int:
    """The task a seed belongs to. Offsets are multiples of ten, so a split goes through its tasks in turn."""
    return seed % TASKS_PER_SUITE


def task_ids(kind: SuiteKind) -> tuple[str, ...]:
    """Task ids in order, e.g. ``red_to_purple``, ``leftmost_to_orange``, ``chain_03``."""
    if kind == "chain":
        return tuple(f"chain_{task:02d}" for task in range(TASKS_PER_SUITE))
    subjects = OBJECT_COLOURS if kind == "object" else RELATIONS
    return tuple(f"{subject}_to_{bin_name}" for subject in subjects for bin_name in BINS)


def subject_and_bin(kind: SuiteKind, task: int, stage: int = 0) -> tuple[int, int]:
    """What a task asks for: (colour, or relation in ``spatial``; bin)."""
    return CHAINS[task][stage] if kind == "chain" else divmod(task, len(BINS))


def instruction(kind: SuiteKind, task: int, stage: int = 0) -> str:
    """The task in words, e.g. ``pick up the red block and place it in the purple bin``."""
    subject, bin_index = subject_and_bin(kind, task, stage)
    names = RELATIONS if kind == "spatial" else OBJECT_COLOURS
    return f"pick up the {names[subject]} block and place it in the {BINS[bin_index]} bin"
