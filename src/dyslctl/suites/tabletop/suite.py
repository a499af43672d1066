"""The three task suites, one scene at a time. Training and data collection step whole batches of ``World`` instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

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
from dyslctl.suites.tabletop.expert import expert
from dyslctl.suites.tabletop.geometry import ACTION_DIM, STEPS_PER_INSTRUCTION
from dyslctl.suites.tabletop.render import render, render_agent
from dyslctl.suites.tabletop.tasks import CHAIN_LENGTH, SuiteKind, episode_seed, task_ids, task_of
from dyslctl.suites.tabletop.world import World
from dyslctl.types import Observation

EXECUTE_HORIZON = 4
VIEWS = ("agent", "wrist")
RENDER_SIZE = 256
"""Side of the picture for people, in pixels."""


def _pictures(world: World) -> PaintedViews:
    """Both views of ``world`` as it is now."""
    now = world.clone()
    return PaintedViews(VIEWS, lambda: [view[0] for view in render(now)])


class TabletopEnvironment(Environment):
    """One scene of the table top."""

    def __init__(self, kind: SuiteKind) -> None:
        self._kind = kind
        self._world: World | None = None

    @property
    def world(self) -> World:
        """The scene itself, a batch of one; what the expert and privileged analyses look at.

        Raises:
            PluginError: Before the first ``reset``.
        """
        if self._world is None:
            raise PluginError("table top: expected reset(spec) before anything else", hint="call reset first")
        return self._world

    def reset(self, spec: EpisodeSpec) -> Observation:
        """Begin the episode ``spec``.

        Raises:
            ConfigError: If the spec's task is not the one its seed stands for.
        """
        task = task_ids(self._kind)[task_of(spec.seed)]
        if spec.task != task:
            raise ConfigError(
                f"tabletop_{self._kind}: seed {spec.seed} is an episode of '{task}', found task '{spec.task}'",
                hint="take specs from TaskSuite.episodes()",
            )
        self._world = World.sample(self._kind, np.array([spec.seed]))
        return self._observe()

    def step(self, action: np.ndarray) -> StepResult:
        """Execute one action ``[7]`` in ``[-1, 1]``. Once the episode is over, nothing moves any more.

        Raises:
            PluginError: If the action has another shape or is not finite.
        """
        action = np.asarray(action)
        if action.shape != (ACTION_DIM,):
            raise PluginError(f"table top: expected an action of shape [{ACTION_DIM}], found {list(action.shape)}")
        solved = bool(self.world.step(action[None])[0])
        done = bool(self.world.done[0])
        return StepResult(self._observe(), done, int(self.world.score[0]), new_instruction=solved and not done)

    def render(self) -> np.ndarray:
        """The agent view at a size for people, ``[256, 256, 3]`` uint8."""
        return np.asarray(render_agent(self.world, RENDER_SIZE)[0])

    def _observe(self) -> Observation:
        return Observation(
            images=_pictures(self.world),
            instruction=self.world.instructions()[0],
            proprio=self.world.proprio()[0],
        )


class _Tabletop(TaskSuite):
    """What the three suites share."""

    kind: ClassVar[SuiteKind]
    execute_horizon = EXECUTE_HORIZON
    action_dim = ACTION_DIM

    @property
    def tasks(self) -> Sequence[str]:
        """Ten task ids, in the order episodes go through them."""
        return task_ids(self.kind)

    def episodes(self, split: Split, count: int) -> list[EpisodeSpec]:
        """The first ``count`` episodes of ``split``; episode ``index`` has task ``index % 10``.

        Raises:
            ConfigError: If the split is smaller than that.
        """
        seeds = [episode_seed(split, index) for index in range(count)]
        return [EpisodeSpec(self.name, split, i, self.tasks[task_of(seed)], seed) for i, seed in enumerate(seeds)]

    def make(self) -> TabletopEnvironment:
        """A new scene, empty until its first ``reset``."""
        return TabletopEnvironment(self.kind)

    def demonstrate(self, spec: EpisodeSpec) -> Demonstration:
        """The scripted expert's episode from ``spec``."""
        return self.demonstrate_disturbed(spec, undisturbed)

    def demonstrate_disturbed(self, spec: EpisodeSpec, disturb: Disturb) -> Demonstration:
        """The same, executing what ``disturb`` says: the expert is Markov, its action is right wherever that leads."""
        environment = self.make()
        observations, actions = [environment.reset(spec)], []
        while True:
            action = expert(environment.world)[0]
            actions.append(action)
            result = environment.step(disturb(action, observations[-1]))
            if result.done:
                return Demonstration(spec, observations, np.stack(actions), result.score)
            observations.append(result.observation)


class TabletopObject(_Tabletop):
    """Four blocks of different colours: which block is told by its colour."""

    kind = "object"
    name = "tabletop_object"
    max_score = 1
    max_steps = STEPS_PER_INSTRUCTION


class TabletopSpatial(_Tabletop):
    """Three black blocks: which block is told by where it lies among the others."""

    kind = "spatial"
    name = "tabletop_spatial"
    max_score = 1
    max_steps = STEPS_PER_INSTRUCTION


class TabletopChain(_Tabletop):
    """Five blocks, five instructions in a row; the first that fails ends the chain. Scored by instructions solved."""

    kind = "chain"
    name = "tabletop_chain"
    max_score = CHAIN_LENGTH
    max_steps = STEPS_PER_INSTRUCTION * CHAIN_LENGTH
