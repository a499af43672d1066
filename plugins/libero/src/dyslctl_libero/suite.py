"""The four suites as the rest of the tool sees them: the released OpenVLA-OFT protocol on the real simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np

from dyslctl.errors import PluginError
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
from dyslctl_libero import golden, tasks
from dyslctl_libero.control import CONTROL_FREQUENCY
from dyslctl_libero.expert import expert
from dyslctl_libero.installation import Installation, prepare
from dyslctl_libero.settings import Settings
from dyslctl_libero.simulator import ACTION_DIM, SNAPSHOT, Simulator
from dyslctl_libero.snapshot import Painter

VIEWS = ("agent", "wrist")
EXECUTE_HORIZON = 8
"""The released evaluation executes whole chunks of 8."""


_painters: WeakValueDictionary[tuple[str, str, Settings], Painter] = WeakValueDictionary()
"""One painter a task, shared by all who still have something to paint: each holds a scene of its own."""


class LiberoEnvironment(Environment):
    """One simulator, which keeps the scene of the task it played last."""

    def __init__(self, suite: tasks.SuiteName, settings: Settings, installation: Installation) -> None:
        self._suite, self._settings, self._installation = suite, settings, installation
        self._scene: Simulator | None = None
        self._painter: Painter | None = None
        self._steps, self._solved = 0, False

    @property
    def scene(self) -> Simulator:
        """The simulator itself; what the expert and privileged analyses look at.

        Raises:
            PluginError: Before the first ``reset``.
        """
        if self._scene is None:
            raise PluginError(f"{self._suite}: expected reset(spec) before anything else", hint="call reset first")
        return self._scene

    def reset(self, spec: EpisodeSpec) -> Observation:
        """Begin the episode ``spec``.

        Raises:
            ConfigError: If ``spec`` is no episode of this suite.
        """
        tasks.check(self._suite, spec)
        if self._scene is None or self._scene.task != spec.task:
            self.close()
            self._scene = Simulator(self._installation, self._suite, spec.task)
        begin = self._scene.begin_official if spec.split == "test" else self._scene.begin_seeded
        begin(spec.seed)
        self._steps, self._solved = 0, False
        return self._observe()

    def step(self, action: np.ndarray) -> StepResult:
        """Execute one action ``[7]``: position and rotation of the hand, fingers -1 open, +1 closed, all -1 to 1.

        Once the episode is over, nothing moves any more.

        Raises:
            PluginError: If the action has another shape or is not finite.
        """
        action = np.asarray(action, np.float64)
        if action.shape != (ACTION_DIM,) or not np.isfinite(action).all():
            raise PluginError(f"{self._suite}: expected a finite action of shape [{ACTION_DIM}], found {action}")
        limit = tasks.MAX_STEPS[self._suite]
        if not self._solved and self._steps < limit:
            self._solved = self.scene.step(action)
            self._steps += 1
        return StepResult(self._observe(), self._solved or self._steps >= limit, int(self._solved))

    def render(self) -> np.ndarray:
        """The third-person view."""
        return self._observe().images[VIEWS[0]]

    def close(self) -> None:
        """Free the simulator. Pictures that nobody looked at yet keep their painter."""
        if self._scene is not None:
            self._scene.close()
        self._scene = self._painter = None

    def _observe(self) -> Observation:
        return Observation(
            images=PaintedViews(VIEWS, partial(self._paint().paint, self.scene.observed[SNAPSHOT])),
            instruction=tasks.instruction(self.scene.task),
            proprio=self.scene.proprio(),
        )

    def _paint(self) -> Painter:
        if self._painter is None:
            key = (self._suite, self.scene.task, self._settings)
            painter = Painter(self.scene.model, self._settings.renderer, self._settings.image_size)
            self._painter = _painters.setdefault(key, painter)
        return self._painter


class _Libero(TaskSuite):
    """What the four suites share."""

    kind: ClassVar[tasks.SuiteName]
    max_score = 1
    execute_horizon = EXECUTE_HORIZON
    action_dim = ACTION_DIM
    control_frequency = CONTROL_FREQUENCY

    def __init__(self) -> None:
        self.name, self.max_steps = self.kind, tasks.MAX_STEPS[self.kind]

    @property
    def tasks(self) -> Sequence[str]:
        """Ten task ids, in the order episodes go through them."""
        return tasks.TASKS[self.kind]

    @property
    def demonstrated_tasks(self) -> Sequence[str]:
        """Those that the scripted expert has a skill for."""
        return [task for task in self.tasks if task not in tasks.WITHOUT_SKILL]

    def episodes(self, split: Split, count: int) -> list[EpisodeSpec]:
        """The first ``count`` episodes of ``split``; episode ``index`` has task ``index % 10``.

        Raises:
            ConfigError: If the split is smaller than that.
        """
        return [tasks.episode(self.kind, split, index) for index in range(count)]

    def make(self) -> LiberoEnvironment:
        """A new simulator, empty until its first ``reset``.

        Raises:
            NotInstalled: If the simulator is not complete; lists all that is missing.
        """
        return _environment(self.kind, Settings.of())

    def identity(self) -> Mapping[str, Any]:
        """Versions, renderer and scene files, after a look at the golden frame.

        Raises:
            EnvironmentMismatch: If this machine paints another picture than the reference machine.
            NotInstalled: If the simulator is not complete.
        """
        return golden.identity(self.kind, Settings.of())

    def demonstrate(self, spec: EpisodeSpec) -> Demonstration:
        """The scripted expert's episode from ``spec``.

        Raises:
            PluginError: If the expert has no skill for the task.
        """
        return self.demonstrate_disturbed(spec, undisturbed)

    def demonstrate_disturbed(self, spec: EpisodeSpec, disturb: Disturb) -> Demonstration:
        """The same, executing what ``disturb`` says: the expert looks at the scene before every action.

        Raises:
            PluginError: If the expert has no skill for the task.
        """
        environment = _stage(self.kind, Settings.of())
        try:
            return _show(environment, spec, disturb)
        except BaseException:
            _stage.cache_clear()  # whatever state it is in now
            raise


def _environment(suite: tasks.SuiteName, settings: Settings) -> LiberoEnvironment:
    return LiberoEnvironment(suite, settings, prepare(settings))


_stage = lru_cache(maxsize=1)(_environment)
"""Where this process's expert acts. Kept for the next demonstration: loading a scene takes as long as acting in it."""


def _show(environment: LiberoEnvironment, spec: EpisodeSpec, disturb: Disturb) -> Demonstration:
    observations, actions, score = [environment.reset(spec)], [], 0
    for action in expert(environment.scene):
        result = environment.step(disturb(action, observations[-1]))
        actions.append(action)
        score = result.score
        if result.done:
            break
        observations.append(result.observation)
    return Demonstration(spec, observations[: len(actions)], np.stack(actions), score)


class LiberoSpatial(_Libero):
    """One black bowl of two, told by where it stands."""

    kind = "libero_spatial"


class LiberoObject(_Libero):
    """One grocery of several, into the basket."""

    kind = "libero_object"


class LiberoGoal(_Libero):
    """One kitchen, ten things to do in it."""

    kind = "libero_goal"


class Libero10(_Libero):
    """Long tasks: two things to do, one after the other."""

    kind = "libero_10"
