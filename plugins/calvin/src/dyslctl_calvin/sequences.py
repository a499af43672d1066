"""Chains of five instructions: the 1000 official ones, a file of others, and those to learn and to tune on.

Chains of fewer kinds of tasks are drawn likewise (:data:`FIXTURES`).

The official evaluation draws its chains anew each time it runs, from fixed seeds. :func:`generate` repeats these draws
to the last one; whether it did is told by the hash of the result. It takes seconds, so the result is kept in a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from dyslctl.artifacts.files import atomic_write, make_folder, read_text
from dyslctl.errors import ArtifactError, EnvironmentMismatch
from dyslctl_calvin.tasks import TASKS, State, successor

LENGTH = 5
"""Instructions in a chain."""
OFFICIAL_COUNT = 1000
OFFICIAL_SHA256 = "604957a8a2d3102941b278df07df4950bc41f340ed959077b20467d5f692318a"
"""Of :func:`canonical` of the official list. The file that RoboFlamingo publishes, ``eval_sequences.json``, has it."""

CONDITIONS: Mapping[str, tuple[int | str, ...]] = {
    "led": (0, 1),
    "lightbulb": (0, 1),
    "slider": ("right", "left"),
    "drawer": ("closed", "open"),
    "red_block": ("table", "slider_right", "slider_left"),
    "blue_block": ("table", "slider_right", "slider_left"),
    "pink_block": ("table", "slider_right", "slider_left"),
    "grasped": (0,),
}
"""What a scene may be like at first. The order matters: the hash that seeds block poses goes over the values."""


@dataclass(frozen=True)
class Chain:
    """Where a chain begins, and its instructions.

    Attributes:
        start: The scene in words.
        tasks: :data:`LENGTH` task names.
    """

    start: State
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Repertoire:
    """The tasks that chains are drawn from, and whether two of one category may be in one.

    Attributes:
        names: Task names in the benchmark's order.
        repeats_category: The official chains hold at most one task of each category.
    """

    names: tuple[str, ...]
    repeats_category: bool = False

    def follows(self, state: State, names: Sequence[str]) -> bool:
        """Can ``names`` be done one after the other from ``state``, each in one way?"""
        for name in names:
            after = successor(state, name)
            if after is None:
                return False
            state = after
        return self.repeats_category or len({TASKS[name].category for name in names}) == len(names)


OFFICIAL = Repertoire(tuple(TASKS))
FIXTURES = Repertoire(
    tuple(name for name, task in TASKS.items() if task.category in ("slider", "drawer", "light")), repeats_category=True
)
"""Door, drawer, light bulb and LED: the eight tasks that move no block. Theirs are three categories, too few for five
tasks of five, so that this rule alone is waived."""


@cache
def initial_states() -> tuple[State, ...]:
    """The 192 scenes that chains begin in: one or two blocks on the table, each half of the cabinet for one."""
    states = (dict(zip(CONDITIONS, values, strict=True)) for values in product(*CONDITIONS.values()))
    return tuple(state for state in states if _room(list(state.values())))


def draws(start: State, random: np.random.RandomState, of: Repertoire = OFFICIAL) -> Iterator[Chain]:
    """Chains from ``start``, without end: five names are drawn until they follow.

    ``permutation(34)[:5]`` takes the same numbers from the generator as the official ``choice(names, 5, False)``.
    """
    names = of.names
    possible = {i for i, name in enumerate(names) if successor(start, name) is not None}
    while True:
        drawn = random.permutation(len(names))[:LENGTH].tolist()
        if drawn[0] in possible and of.follows(start, chain := tuple(names[i] for i in drawn)):
            yield Chain(start, chain)


def generate(of: Repertoire = OFFICIAL) -> list[Chain]:
    """The 1000 official chains, or as many of fewer tasks: 5 or 6 from each initial state, then shuffled.

    The official ones take about 20 seconds.
    """
    states = initial_states()
    counts = [len(part) for part in np.array_split(np.arange(OFFICIAL_COUNT), len(states))]
    chains: list[Chain] = []
    for number, (state, count) in enumerate(zip(states, counts, strict=True)):
        found = draws(state, np.random.RandomState(number), of)
        chains += [next(found) for _ in range(count)]
    return [chains[i] for i in np.random.RandomState(0).permutation(OFFICIAL_COUNT)]


def draw(seed: int, of: Repertoire = OFFICIAL) -> Chain:
    """One more chain, by the same rules, from any initial state: what ``train`` and ``tune`` episodes are made of."""
    random = np.random.RandomState(seed)
    states = initial_states()
    return next(draws(states[random.randint(len(states))], random, of))


def official(cache_folder: Path) -> list[Chain]:
    """The official chains, from ``cache_folder`` if an earlier call left them there.

    Raises:
        EnvironmentMismatch: If this machine's NumPy draws other chains, or the cache cannot be written.
    """
    path = cache_folder / f"sequences-{OFFICIAL_SHA256[:12]}.json"
    kept = _kept(path)
    if kept is not None:
        return kept
    chains = generate()
    if digest(chains) != OFFICIAL_SHA256:
        raise EnvironmentMismatch(
            f"NumPy {np.__version__} draws other chains than the official ones: expected SHA-256 {OFFICIAL_SHA256}, "
            f"found {digest(chains)}",
            hint="export DYSLCTL_CALVIN_SEQUENCES=eval_sequences.json (RoboFlamingo publishes that file)",
        )
    make_folder(cache_folder)
    atomic_write(path, canonical(chains))
    return chains


def read(path: Path) -> list[Chain]:
    """The chains in a file of the layout of RoboFlamingo's ``eval_sequences.json``: ``[[scene, [five names]], ...]``.

    Raises:
        ArtifactError: If it cannot be read, or holds anything but chains that can be played.
    """
    try:
        rows = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise ArtifactError(f"{path}: expected a list of chains, found {type(rows).__name__}, or an empty one")
    return [_chain(row, f"{path}: chain {number}") for number, row in enumerate(rows)]


def canonical(chains: Sequence[Chain]) -> str:
    """``chains`` as JSON of one spelling, to be hashed."""
    rows = [[{key: chain.start[key] for key in CONDITIONS}, list(chain.tasks)] for chain in chains]
    return json.dumps(rows, separators=(",", ":"))


def digest(chains: Sequence[Chain]) -> str:
    """SHA-256 of :func:`canonical`, hex."""
    return sha256(canonical(chains).encode()).hexdigest()


def _room(values: list[int | str]) -> bool:
    return values.count("table") in (1, 2) and values.count("slider_right") < 2 and values.count("slider_left") < 2


def _kept(path: Path) -> list[Chain] | None:
    """The official chains in ``path``; ``None`` if it is not there, or damaged."""
    try:
        chains = read(path)
    except ArtifactError:
        return None
    return chains if digest(chains) == OFFICIAL_SHA256 else None


def _chain(row: Any, where: str) -> Chain:
    if not isinstance(row, list) or len(row) != 2 or not isinstance(row[0], dict) or not isinstance(row[1], list):
        raise ArtifactError(f"{where}: expected [scene, [names]], found {row}")
    scene, names = row
    if set(scene) != set(CONDITIONS):
        raise ArtifactError(f"{where}: expected the keys {', '.join(CONDITIONS)}, found {', '.join(map(str, scene))}")
    if scene not in initial_states():
        raise ArtifactError(f"{where}: the scene is none of the {len(initial_states())} that chains begin in: {scene}")
    if len(names) != LENGTH or any(name not in TASKS for name in names):
        raise ArtifactError(f"{where}: expected {LENGTH} task names, found {names}")
    return Chain({key: scene[key] for key in CONDITIONS}, tuple(names))
