"""The suites as the rest of the tool sees them: chains by the official protocol.

``calvin_d`` is CALVIN D -> D, ``calvin_abc`` ABC -> D: both are evaluated in scene D, on the official chains. They
differ in where one learns and tunes: in D, or in A, B and C in turn. ``calvin_d_fixtures`` is D -> D on chains of the
eight tasks that move no block, drawn from the same initial states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache, lru_cache, partial
from typing import Any, ClassVar

import numpy as np

from dyslctl.errors import ConfigError, PluginError
from dyslctl.suite import (
    Demonstration,
    Disturb,
    Environment,
    EpisodeSpec,
    PaintedViews,
    Split,
    StepResult,
    TaskSuite,
    undisturbed,
)
from dyslctl.types import Observation
from dyslctl_calvin import initial_states, sequences
from dyslctl_calvin.expert import expert
from dyslctl_calvin.initial_states import Scene
from dyslctl_calvin.installation import Installation, prepare
from dyslctl_calvin.sequences import FIXTURES, LENGTH, OFFICIAL, OFFICIAL_COUNT, Chain, Repertoire
from dyslctl_calvin.settings import Settings
from dyslctl_calvin.simulator import ACTION_DIM, CONTROL_FREQUENCY, Simulator
from dyslctl_calvin.snapshot import VIEWS, painter, take
from dyslctl_calvin.tasks import TASKS

STEPS_PER_INSTRUCTION = 360
"""The official limit of one instruction, in actions."""
EXECUTE_HORIZON = 1
"""The released RoboFlamingo evaluation asks its model before every action."""
CHAIN = "chain"
"""The one task of a suite: five instructions in a row. Which five differs from episode to episode."""
SPLIT_SIZE = 10_000_000
SPLIT_OFFSET: dict[Split, int] = {"train": SPLIT_SIZE, "tune": 2 * SPLIT_SIZE}
"""Episode ``index`` of these splits has seed ``SPLIT_OFFSET[split] + index``: chain, angles, places derive from it."""
TEST_SCENE: Scene = "D"


class CalvinEnvironment(Environment):
    """One simulator, which keeps the scene it played last."""

    def __init__(self, suite: _Calvin, settings: Settings, installation: Installation) -> None:
        self._suite, self._settings, self._installation = suite, settings, installation
        self._simulator: Simulator | None = None
        self._chain = Chain({}, ())
        self._score = self._clock = 0

    @property
    def simulator(self) -> Simulator:
        """The simulator itself; what the expert and privileged analyses look at.

        Raises:
            PluginError: Before the first ``reset``.
        """
        if self._simulator is None:
            raise PluginError(f"{self._suite.name}: expected reset(spec) before anything else", hint="call reset first")
        return self._simulator

    @property
    def task(self) -> str:
        """The task that is asked for; the last one once all are solved."""
        return self._chain.tasks[min(self._score, LENGTH - 1)]

    def reset(self, spec: EpisodeSpec) -> Observation:
        """Begin the episode ``spec``.

        Raises:
            ConfigError: If ``spec`` is no episode of this suite.
        """
        self._chain, placement, scene = self._suite.beginning(spec)
        if self._simulator is None or self._simulator.scene != scene:
            self.close()
            self._simulator = Simulator(self._installation, scene)
        self._simulator.begin(placement)
        self._score = self._clock = 0
        self._start = self._simulator.info()
        return self._observe()

    def step(self, action: np.ndarray) -> StepResult:
        """Execute one action ``[7]``: position (1 is 2 cm) and Euler angles (1 is 0.05 rad) of the hand, fingers.

        As in the released evaluation it is cast to float16 first, and not clipped; positive fingers open (executed: 1),
        others close (-1). Once the episode is over, nothing moves any more.

        Raises:
            PluginError: If the action has another shape, or is not finite in float16.
        """
        executed = self._checked(action)
        solved = False
        if not self._over:
            self.simulator.step(executed)
            self._clock += 1
            solved = self._judge()
        return StepResult(self._observe(), self._over, self._score, new_instruction=solved and not self._over)

    def render(self) -> np.ndarray:
        """The view from across the table, ``[side, side, 3]`` uint8."""
        return self._observe().images[VIEWS[0]]

    def close(self) -> None:
        """Free the simulator. Pictures that nobody looked at yet can still be painted."""
        if self._simulator is not None:
            self._simulator.close()
        self._simulator = None

    @property
    def _over(self) -> bool:
        return self._score == LENGTH or self._clock >= STEPS_PER_INSTRUCTION

    def _judge(self) -> bool:
        """Ask the oracle about the current instruction; once it is solved, the next one begins from here."""
        now = self.simulator.info()
        if not self.simulator.solved(self.task, self._start, now):
            return False
        self._score, self._clock, self._start = self._score + 1, 0, now
        return True

    def _checked(self, action: np.ndarray) -> np.ndarray:
        """``[7]`` float16, fingers exactly -1 or 1."""
        with np.errstate(over="ignore"):  # what is too large for float16 is refused below
            cast = np.array(action, np.float16)
        if cast.shape != (ACTION_DIM,) or not np.isfinite(cast).all():
            raise PluginError(f"{self._suite.name}: expected a finite action of shape [{ACTION_DIM}], found {action}")
        cast[-1] = 1 if cast[-1] > 0 else -1
        return cast

    def _observe(self) -> Observation:
        paint = painter(self._installation, self.simulator.scene, self._settings.look).paint
        return Observation(
            images=PaintedViews(VIEWS, partial(paint, take(self.simulator.env))),
            instruction=TASKS[self.task].words,
            proprio=self.simulator.proprio(),
        )


class _Calvin(TaskSuite):
    """What the suites share."""

    scenes: ClassVar[tuple[Scene, ...]]
    """Where ``train`` and ``tune`` episodes play, in turn."""
    repertoire: ClassVar[Repertoire] = OFFICIAL
    """What chains are made of."""
    max_score = LENGTH
    max_steps = STEPS_PER_INSTRUCTION * LENGTH
    execute_horizon = EXECUTE_HORIZON
    action_dim = ACTION_DIM
    control_frequency = CONTROL_FREQUENCY
    gripper_open = 1

    @property
    def tasks(self) -> Sequence[str]:
        """:data:`CHAIN` alone."""
        return (CHAIN,)

    def episodes(self, split: Split, count: int) -> list[EpisodeSpec]:
        """The first ``count`` episodes of ``split``; ``test`` has the chains that are evaluated, in their order.

        Raises:
            ConfigError: If the split is smaller than that.
        """
        size = SPLIT_SIZE if split in SPLIT_OFFSET else self._test_size(Settings.of())
        if count > size:
            raise ConfigError(
                f"{self.name}: split '{split}' has {size} chains, found {count} asked for",
                hint=f"--episodes {size} is all of them",
            )
        offset = SPLIT_OFFSET.get(split, 0)
        return [EpisodeSpec(self.name, split, index, CHAIN, offset + index) for index in range(count)]

    def _test_size(self, settings: Settings) -> int:
        chosen = settings.sequences is not None and self.repertoire is OFFICIAL
        return len(_test_chains(settings, self.repertoire)) if chosen else OFFICIAL_COUNT

    def beginning(self, spec: EpisodeSpec) -> tuple[Chain, initial_states.Placement, Scene]:
        """The chain of ``spec``, where everything stands at first, and in which scene.

        Raises:
            ConfigError: If ``spec`` is no episode of this suite.
        """
        if spec != EpisodeSpec(self.name, spec.split, spec.index, CHAIN, SPLIT_OFFSET.get(spec.split, 0) + spec.index):
            raise ConfigError(f"{self.name} has no episode {spec}", hint="take specs from TaskSuite.episodes()")
        if spec.split in SPLIT_OFFSET:
            chain, scene = sequences.draw(spec.seed, self.repertoire), self.scenes[spec.index % len(self.scenes)]
            return chain, initial_states.drawn(chain.start, scene, spec.seed), scene
        chain = _test_chains(Settings.of(), self.repertoire)[spec.index]
        return chain, initial_states.official(chain.start), TEST_SCENE

    def make(self) -> CalvinEnvironment:
        """A new simulator, empty until its first ``reset``.

        Raises:
            NotInstalled: If the simulator is not complete; lists all that is missing.
        """
        settings = Settings.of()
        return CalvinEnvironment(self, settings, prepare(settings))

    def identity(self) -> Mapping[str, Any]:
        """Versions, what pictures look like, and chains.

        Raises:
            NotInstalled: If the simulator is not complete.
        """
        settings = Settings.of()
        installation = prepare(settings)
        return {
            "pybullet": installation.pybullet,
            "calvin_env": installation.fingerprint,
            **asdict(settings.look),
            "sequences": sequences.digest(_test_chains(settings, self.repertoire))[:12],
        }

    def demonstrate(self, spec: EpisodeSpec) -> Demonstration:
        """The scripted expert's episode from ``spec``."""
        return self.demonstrate_disturbed(spec, undisturbed)

    def demonstrate_disturbed(self, spec: EpisodeSpec, disturb: Disturb) -> Demonstration:
        """The same, executing what ``disturb`` says: the expert looks at the scene before every action."""
        environment = _stage(type(self), Settings.of())
        try:
            return _show(environment, spec, disturb)
        except BaseException:
            _stage.cache_clear()  # whatever state it is in now
            raise


@lru_cache(maxsize=1)
def _stage(suite: type[_Calvin], settings: Settings) -> CalvinEnvironment:
    """Where this process's expert acts, kept for the next demonstration."""
    return CalvinEnvironment(suite(), settings, prepare(settings))


def _show(environment: CalvinEnvironment, spec: EpisodeSpec, disturb: Disturb) -> Demonstration:
    observations, actions = [environment.reset(spec)], list[np.ndarray]()
    moves = expert(environment.simulator, environment.task)
    while True:
        actions.append(next(moves))
        result = environment.step(disturb(actions[-1], observations[-1]))
        if result.done:
            return Demonstration(spec, observations, np.stack(actions), result.score)
        if result.new_instruction:
            moves = expert(environment.simulator, environment.task)
        observations.append(result.observation)


@cache
def _test_chains(settings: Settings, repertoire: Repertoire) -> list[Chain]:
    if repertoire is not OFFICIAL:
        return sequences.generate(repertoire)
    return sequences.read(settings.sequences) if settings.sequences else sequences.official(settings.cache)


class CalvinD(_Calvin):
    """Learn and tune in scene D, evaluate in scene D."""

    name = "calvin_d"
    scenes = ("D",)


class CalvinABC(_Calvin):
    """Learn and tune in scenes A, B and C, evaluate in scene D, which nothing has seen."""

    name = "calvin_abc"
    scenes = ("A", "B", "C")


class CalvinDFixtures(CalvinD):
    """Door, drawer, light bulb and LED in scene D: chains of the eight tasks that move no block."""

    name = "calvin_d_fixtures"
    repertoire = FIXTURES
