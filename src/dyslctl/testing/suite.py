"""The task-suite contract (:class:`dyslctl.suite.TaskSuite`), rule by rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import get_args

import numpy as np

from dyslctl.errors import ConfigError, DyslctlError, PluginError
from dyslctl.suite import Environment, EpisodeSpec, Split, StepResult, TaskSuite
from dyslctl.testing.report import Check, CheckReport, Findings
from dyslctl.types import Observation

SPLITS: tuple[Split, ...] = get_args(Split)
EXPERT_SUCCESS = 0.8
"""Share of the played episodes that a scripted expert must solve for its demonstrations to teach anything."""


def check_suite(suite: TaskSuite, episodes: int = 5) -> CheckReport:
    """Run every rule of the task-suite contract.

    Args:
        suite: The suite, loaded.
        episodes: How many training episodes the expert demonstrates, and how many initial states of each split are
            compared for each task.

    Raises:
        PluginError: If any rule is broken; lists all of them.
        ConfigError: If ``episodes`` is less than 2.
    """
    if episodes < 2:
        raise ConfigError(f"check_suite needs two or more episodes, found {episodes}")
    return CheckReport.of(suite.name, SuiteCase(suite, episodes), CHECKS).require()


@dataclass(frozen=True)
class SuiteCase:
    """A suite, and how much of it to try."""

    suite: TaskSuite
    episodes: int

    def specs(self, split: Split = "train") -> list[EpisodeSpec]:
        """The episodes that are played."""
        return self.suite.episodes(split, self.episodes)

    def actions(self, steps: int) -> np.ndarray:
        """``[steps, A]`` small random actions, always the same."""
        return np.random.default_rng(0).uniform(-0.3, 0.3, (steps, self.suite.action_dim)).astype(np.float32)

    def play(self, environment: Environment, spec: EpisodeSpec, actions: np.ndarray) -> Iterator[StepResult]:
        """The results of ``actions``, until the episode is over."""
        environment.reset(spec)
        for action in actions:
            result = environment.step(action)
            yield result
            if result.done:
                return


def _attributes(case: SuiteCase) -> Findings:
    """The numbers of the suite make sense."""
    suite = case.suite
    if not 1 <= suite.execute_horizon <= suite.max_steps:
        yield f"execute_horizon is {suite.execute_horizon}, outside 1..max_steps ({suite.max_steps})"
    for name in ("max_score", "action_dim"):
        if getattr(suite, name) < 1:
            yield f"{name} is {getattr(suite, name)}"
    if not suite.tasks or len(set(suite.tasks)) != len(suite.tasks):
        yield f"tasks are not distinct, or there are none: {list(suite.tasks)}"


def _episodes(case: SuiteCase) -> Findings:
    """Episodes are a fixed list, tasks in turn."""
    suite, count = case.suite, len(case.suite.tasks) + 1
    for split in SPLITS:
        specs = suite.episodes(split, count)
        if [spec.index for spec in specs] != list(range(count)):
            yield f"{split}: {count} episodes asked for, found indices {[spec.index for spec in specs]}"
        if specs != suite.episodes(split, count) or specs[:-1] != suite.episodes(split, count - 1):
            yield f"{split}: the first episodes depend on the call"
        if {spec.task for spec in specs} != set(suite.tasks):
            yield f"{split}: {count} episodes leave out tasks {sorted(set(suite.tasks) - {s.task for s in specs})}"
        if any((spec.suite, spec.split) != (suite.name, split) for spec in specs):
            yield f"{split}: a spec names another suite or split"


def _splits(case: SuiteCase) -> Findings:
    """Splits never overlap."""
    count = case.episodes * len(case.suite.tasks)
    states = {split: {(spec.task, spec.seed) for spec in case.suite.episodes(split, count)} for split in SPLITS}
    for split, found in states.items():
        if len(found) < count:
            yield f"{split}: only {len(found)} of {count} initial states are distinct"
    seen = _first_looks(case)
    for one, other in combinations(SPLITS, 2):
        if shared := len(states[one] & states[other]):
            yield f"{one} and {other} share {shared} initial states"
        elif all(_same(a, b) for a, b in zip(seen[one], seen[other], strict=True)):
            yield f"{one} and {other} begin equal episodes, whatever their seeds"


def _first_looks(case: SuiteCase) -> dict[Split, list[Observation]]:
    """What is seen at the beginning of the first episodes of one task, by split: a seed may be told and not used."""
    environment, tasks = case.suite.make(), len(case.suite.tasks)
    looks = {
        split: [environment.reset(spec) for spec in case.suite.episodes(split, tasks + 1)[::tasks]] for split in SPLITS
    }
    environment.close()
    return looks


def _observation(case: SuiteCase) -> Findings:
    """Observations are uint8 images, float32 proprio and an instruction."""
    environment = case.suite.make()
    first = environment.reset(case.specs()[0])
    yield from _image("render()", environment.render())
    for when, observation in (("reset", first), ("step", environment.step(case.actions(1)[0]).observation)):
        if not observation.images or list(observation.images) != list(first.images):
            yield f"{when}: views are {list(observation.images)}, at reset {list(first.images)}"
        for view, image in observation.images.items():
            yield from _image(f"{when}: view '{view}'", image)
        if not observation.instruction.strip():
            yield f"{when}: the instruction is empty"
        proprio = observation.proprio
        if proprio is not None and (proprio.dtype != np.float32 or proprio.ndim != 1 or not np.isfinite(proprio).all()):
            yield f"{when}: proprio is {proprio.dtype} {proprio.shape}, expected finite float32 [P]"
    environment.close()


def _reset(case: SuiteCase) -> Findings:
    """Equal specs begin equal episodes."""
    one, other = case.suite.make(), case.suite.make()
    first, second = case.specs()[:2]
    expected = one.reset(first)
    if not _same(other.reset(first), expected):
        yield "two simulators show different first observations of one episode"
    list(case.play(one, second, case.actions(3)))
    if not _same(one.reset(first), expected):
        yield "the first observation depends on the episode before"
    one.close()
    other.close()


def _step(case: SuiteCase) -> Findings:
    """Equal actions lead to equal episodes."""
    one, other = case.suite.make(), case.suite.make()
    spec, actions = case.specs()[0], case.actions(20)
    pairs = zip(case.play(one, spec, actions), case.play(other, spec, actions), strict=True)
    for step, (a, b) in enumerate(pairs):
        if not _same(a.observation, b.observation) or (a.done, a.score) != (b.done, b.score):
            yield f"the same actions lead to something else at step {step}"
            break
    one.close()
    other.close()


def _action(case: SuiteCase) -> Findings:
    """Step refuses a bad action."""
    environment = case.suite.make()
    environment.reset(case.specs()[0])
    width = case.suite.action_dim
    bad = {"NaN": np.full(width, np.nan, np.float32), f"{width + 1} numbers": np.zeros(width + 1, np.float32)}
    for what, action in bad.items():
        try:
            environment.step(action)
        except DyslctlError:
            continue
        except Exception as error:
            yield f"an action of {what} raises {type(error).__name__}, expected PluginError"
        else:
            yield f"an action of {what} is executed"
    environment.close()


def _ending(case: SuiteCase) -> Findings:
    """Every episode ends."""
    suite, environment = case.suite, case.suite.make()
    idle = np.zeros((suite.max_steps, suite.action_dim), np.float32)
    results = list(case.play(environment, case.specs()[0], idle))
    if not results[-1].done:
        yield f"an idle robot is not stopped after max_steps ({suite.max_steps})"
    if results[-1].score == suite.max_score:
        yield "an idle robot solves the episode"
    environment.close()


def _expert(case: SuiteCase) -> Findings:
    """The expert's demonstrations solve the episode, and replay."""
    suite, solved = case.suite, 0
    if unknown := set(suite.demonstrated_tasks) - set(suite.tasks):
        yield f"demonstrated_tasks are no tasks: {sorted(unknown)}"
        return
    specs = suite.demonstrated_episodes("train", case.episodes) if suite.demonstrated_tasks else ()
    for played, spec in enumerate(specs):
        try:
            demonstration = suite.demonstrate(spec)
        except PluginError as error:
            if played:  # otherwise there is none, which the contract allows
                yield f"{spec.task}: the expert fails after {played} demonstrations: {error.message}"
            return
        solved += demonstration.score == suite.max_score
        shape = (len(demonstration.observations), suite.action_dim)
        if demonstration.actions.shape != shape or not np.isfinite(demonstration.actions).all():
            yield f"{spec.task}: actions are {demonstration.actions.shape}, expected {shape}, finite"
            return
        yield from _replay(case, spec, demonstration.actions, demonstration.score)
    if suite.demonstrated_tasks and solved < EXPERT_SUCCESS * case.episodes:
        yield f"the expert solves {solved} of {case.episodes} episodes, expected {EXPERT_SUCCESS:.0%} or more"


def _disturbed(case: SuiteCase) -> Findings:
    """A disturbed demonstration executes what it is told to, and holds what the expert meant."""
    suite, executed, seen = case.suite, list[np.ndarray](), list[Observation]()

    def hold_back(action: np.ndarray, observation: Observation) -> np.ndarray:
        seen.append(observation)
        pose = action[:-1] if len(executed) % 5 else np.zeros_like(action[:-1])
        executed.append(np.append(pose, action[-1]))
        return executed[-1]

    for spec in suite.demonstrated_episodes("train", 1) if suite.demonstrated_tasks else ():
        try:
            shown = suite.demonstrate_disturbed(spec, hold_back)
        except PluginError as error:
            if executed:  # otherwise there is no such expert, which the contract allows
                yield f"{spec.task}: the expert fails after {len(executed)} actions: {error.message}"
            return
        if len(executed) != len(shown.actions):
            yield f"{spec.task}: {len(shown.actions)} actions, of which disturb was asked for {len(executed)}"
            return
        if any(told is not kept for told, kept in zip(seen, shown.observations, strict=True)):
            yield f"{spec.task}: disturb is told of other observations than those of the demonstration"
        if np.array_equal(shown.actions, np.stack(executed)):
            yield f"{spec.task}: the demonstration holds what was executed"
        yield from _replay(case, spec, np.stack(executed), shown.score)


def _replay(case: SuiteCase, spec: EpisodeSpec, actions: np.ndarray, score: int) -> Findings:
    environment = case.suite.make()
    results = list(case.play(environment, spec, actions))
    scores = [0, *(result.score for result in results)]
    environment.close()
    if scores[-1] != score:
        yield f"{spec.task}: replaying the demonstration scores {scores[-1]}, the demonstration {score}"
    if min(np.diff(scores)) < 0 or scores[-1] > case.suite.max_score:
        yield f"{spec.task}: scores fall, or pass max_score {case.suite.max_score}: {sorted(set(scores))}"
    if scores[-1] == case.suite.max_score and not results[-1].done:
        yield f"{spec.task}: the episode is solved and not done"
    for result, gained in zip(results, np.diff(scores), strict=True):
        if result.new_instruction and (not gained or result.done):
            yield f"{spec.task}: a new instruction begins without a solved subtask, or after the end"
        if gained and not result.done and not result.new_instruction:
            yield f"{spec.task}: a subtask is solved, and no new instruction begins"


def _image(what: str, image: np.ndarray) -> Findings:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        yield f"{what} is {image.dtype} {image.shape}, expected uint8 [height, width, 3]"


def _same(one: Observation, other: Observation) -> bool:
    images = all(np.array_equal(one.images[view], other.images[view]) for view in one.images)
    return images and one.instruction == other.instruction and np.array_equal(_proprio(one), _proprio(other))


def _proprio(observation: Observation) -> np.ndarray:
    return np.zeros(0) if observation.proprio is None else observation.proprio


CHECKS: tuple[Check[SuiteCase], ...] = (
    Check(_attributes, "see the Attributes of dyslctl.suite.TaskSuite"),
    Check(
        _episodes,
        "derive spec number i of a split from (split, i) alone; task number i % len(tasks)",
    ),
    Check(_splits, "give each split its own range of seeds"),
    Check(
        _observation,
        "convert at the border of the simulator; the views keep their names and order",
    ),
    Check(
        _reset,
        "seed every random generator from spec.seed in reset, and reset all of the world",
    ),
    Check(_step, "draw no randomness that spec.seed does not determine"),
    Check(_action, "raise PluginError unless the action is finite and [A]"),
    Check(_ending, "done after max_steps actions, whatever happened"),
    Check(
        _expert,
        "demonstrate() must drive the same simulator as make(), and record what it executes",
    ),
    Check(_disturbed, "execute disturb(action, observation) once for every action of the expert, and record action"),
)
