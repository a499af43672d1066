"""Suites and environments without a simulator: the rules around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dyslctl_libero import Libero10, LiberoGoal, LiberoObject, LiberoSpatial, golden, suite, tasks
from dyslctl_libero.installation import Installation
from dyslctl_libero.settings import Settings
from dyslctl_libero.simulator import SNAPSHOT, axis_angle
from dyslctl_libero.suite import LiberoEnvironment

from dyslctl import plugins
from dyslctl.errors import ConfigError, EnvironmentMismatch, NotInstalled, PluginError
from dyslctl.suite import TaskSuite


class FakeScene:
    """Solved by the action whose first entry is 1."""

    made = 0

    def __init__(self, installation: Installation, suite: str, task: str) -> None:
        self.task, self.model = task, None
        self.began: list[tuple[str, int]] = []
        self.executed: list[np.ndarray] = []
        self.observed = {SNAPSHOT: np.zeros(1)}
        FakeScene.made += 1

    def begin_official(self, trial: int) -> None:
        self.began.append(("official", trial))

    def begin_seeded(self, seed: int) -> None:
        self.began.append(("seeded", seed))

    def step(self, action: np.ndarray) -> bool:
        self.executed.append(action)
        self.observed = {SNAPSHOT: np.full(1, len(self.executed))}
        return bool(action[0] == 1)

    def proprio(self) -> np.ndarray:
        return np.zeros(8, np.float32)

    def close(self) -> None: ...


class FakePainter:
    painted = 0

    def __init__(self, *_: object) -> None: ...

    def paint(self, snapshot: np.ndarray) -> tuple[np.ndarray, ...]:
        FakePainter.painted += 1
        return tuple(np.full((4, 4, 3), int(snapshot[0]) + view, np.uint8) for view in (0, 100))


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LiberoEnvironment:
    monkeypatch.setattr(suite, "Simulator", FakeScene)
    monkeypatch.setattr(suite, "Painter", FakePainter)
    monkeypatch.setattr(FakeScene, "made", 0)
    monkeypatch.setattr(FakePainter, "painted", 0)
    installation = Installation(tmp_path, tmp_path, "osmesa", {})
    return LiberoEnvironment("libero_object", Settings(tmp_path), installation)


IDLE = np.zeros(7, np.float32)
SOLVE = np.array([1, 0, 0, 0, 0, 0, 1], np.float32)


@pytest.mark.parametrize(
    ("kind", "steps"), [(LiberoSpatial, 220), (LiberoObject, 280), (LiberoGoal, 300), (Libero10, 520)]
)
def test_the_released_protocol(kind: type[TaskSuite], steps: int) -> None:
    found = kind()
    assert (found.max_steps, found.execute_horizon, found.action_dim, found.max_score) == (steps, 8, 7, 1)
    assert list(found.tasks) == list(tasks.TASKS[found.name])  # type: ignore[index]
    assert [spec.index for spec in found.episodes("test", 500)] == list(range(500))
    with pytest.raises(ConfigError, match="--episodes 500"):
        found.episodes("test", 501)


def test_tasks_without_a_skill_are_passed_over() -> None:
    specs = LiberoGoal().demonstrated_episodes("train", 7)
    assert [spec.index for spec in specs] == [1, 2, 4, 6, 8, 9, 11]
    assert LiberoSpatial().demonstrated_tasks == list(LiberoSpatial().tasks)


@pytest.mark.parametrize("name", list(tasks.TASKS))
def test_suites_are_found_by_name(name: str) -> None:
    assert plugins.load_suite(name).name == name


def test_without_a_simulator_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DYSLCTL_LIBERO_CACHE", str(tmp_path))
    monkeypatch.setattr("dyslctl_libero.installation._version", lambda name: None)
    for use in (LiberoGoal().make, LiberoGoal().identity):
        with pytest.raises(NotInstalled, match=r"mujoco: expected ==3\.3\.2, found none") as caught:
            use()
        assert caught.value.hint == "python -m dyslctl_libero setup"


def test_test_episodes_begin_from_official_states_and_others_from_seeds(environment: LiberoEnvironment) -> None:
    environment.reset(tasks.episode("libero_object", "test", 30))
    environment.reset(tasks.episode("libero_object", "tune", 0))
    assert environment.scene.began == [("official", 3), ("seeded", 20_000_000)]  # type: ignore[attr-defined]


def test_a_scene_is_kept_as_long_as_the_task_stays(environment: LiberoEnvironment) -> None:
    for index in (0, 10, 20, 1, 0):
        environment.reset(tasks.episode("libero_object", "test", index))
    assert FakeScene.made == 3


def test_pictures_are_painted_when_looked_at_and_show_their_own_moment(environment: LiberoEnvironment) -> None:
    first = environment.reset(tasks.episode("libero_object", "test", 0))
    second = environment.step(IDLE).observation
    environment.step(IDLE)
    assert FakePainter.painted == 0
    assert list(second.images) == ["agent", "wrist"]
    assert [int(image[0, 0, 0]) for image in second.painted().images.values()] == [1, 101]
    assert int(first.images["agent"][0, 0, 0]) == 0
    assert FakePainter.painted == 2  # both views of a moment at once


def test_a_task_has_one_painter_that_goes_with_its_last_picture(environment: LiberoEnvironment) -> None:
    spec = tasks.episode("libero_object", "test", 0)
    seen = environment.reset(spec)
    environment.close()
    environment.reset(spec)
    assert len(suite._painters) == 1
    environment.close()
    assert len(suite._painters) == 1  # one picture is left to paint
    seen.painted()
    assert len(suite._painters) == 0
    assert int(seen.images["agent"][0, 0, 0]) == 0


def test_the_instruction_is_the_task_in_words(environment: LiberoEnvironment) -> None:
    observation = environment.reset(tasks.episode("libero_object", "test", 7))
    assert observation.instruction == "pick up the milk and place it in the basket"


def test_a_solved_episode_is_over(environment: LiberoEnvironment) -> None:
    environment.reset(tasks.episode("libero_object", "test", 0))
    assert not environment.step(IDLE).done
    solved = environment.step(SOLVE)
    assert (solved.done, solved.score, solved.new_instruction) == (True, 1, False)
    again = environment.step(IDLE)
    assert (again.done, again.score) == (True, 1)
    assert len(environment.scene.executed) == 2  # type: ignore[attr-defined]


def test_time_runs_out(environment: LiberoEnvironment) -> None:
    environment.reset(tasks.episode("libero_object", "test", 0))
    results = [environment.step(IDLE) for _ in range(280)]
    assert [result.done for result in results] == [False] * 279 + [True]
    late = environment.step(SOLVE)
    assert (late.done, late.score) == (True, 0)


@pytest.fixture
def stage(environment: LiberoEnvironment, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An expert that solves its task with the second action, in scenes that are none."""
    monkeypatch.setattr(suite, "prepare", lambda settings: None)
    monkeypatch.setattr(suite, "expert", lambda scene: iter([IDLE, SOLVE, IDLE]))
    suite._stage.cache_clear()
    yield
    suite._stage.cache_clear()


def test_a_demonstration_ends_when_the_task_is_solved(stage: None) -> None:
    shown = LiberoObject().demonstrate(tasks.episode("libero_object", "train", 0))
    assert (len(shown.observations), shown.score) == (2, 1)
    np.testing.assert_array_equal(shown.actions, [IDLE, SOLVE])


def test_a_disturbed_demonstration_executes_one_thing_and_holds_another(stage: None) -> None:
    spec = tasks.episode("libero_object", "train", 0)
    shown = LiberoObject().demonstrate_disturbed(spec, lambda action, _: SOLVE if action is SOLVE else IDLE - 0.5)
    np.testing.assert_array_equal(shown.actions, [IDLE, SOLVE])
    scene = suite._stage("libero_object", Settings.of()).scene
    np.testing.assert_array_equal(scene.executed, [IDLE - 0.5, SOLVE])  # type: ignore[attr-defined]


def test_the_experts_scene_stays_for_the_next_demonstration_of_its_task(stage: None) -> None:
    for index in (0, 10, 20, 1):
        LiberoObject().demonstrate(tasks.episode("libero_object", "train", index))
    assert FakeScene.made == 2


def test_a_scene_in_which_something_went_wrong_is_left(stage: None, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tasks.episode("libero_object", "train", 0)
    LiberoObject().demonstrate(spec)
    with monkeypatch.context() as patch, pytest.raises(PluginError, match="expected a finite action"):
        patch.setattr(suite, "expert", lambda scene: iter([np.full(7, np.nan)]))
        LiberoObject().demonstrate(spec)
    LiberoObject().demonstrate(spec)
    assert FakeScene.made == 2


@pytest.mark.parametrize("action", [np.zeros(6), np.zeros((1, 7)), np.full(7, np.nan), np.full(7, np.inf)])
def test_a_bad_action_is_refused(environment: LiberoEnvironment, action: np.ndarray) -> None:
    environment.reset(tasks.episode("libero_object", "test", 0))
    with pytest.raises(PluginError, match=r"expected a finite action of shape \[7\]"):
        environment.step(action)


def test_nothing_before_reset(environment: LiberoEnvironment) -> None:
    with pytest.raises(PluginError, match="expected reset"):
        environment.step(IDLE)


@pytest.mark.parametrize(
    ("quaternion", "expected"),
    [
        ([0, 0, 0, 1], [0, 0, 0]),
        ([1, 0, 0, 0], [np.pi, 0, 0]),
        ([0, np.sin(0.2), 0, np.cos(0.2)], [0, 0.4, 0]),
        ([0, 0, -np.sin(0.2), -np.cos(0.2)], [0, 0, -2 * (np.pi - 0.2)]),  # not brought into half a turn, as released
        ([0, 0, 0, 1.0000001], [0, 0, 0]),
    ],
)
def test_axis_times_angle(quaternion: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(axis_angle(np.array(quaternion, np.float64)), expected, atol=1e-9)


def test_another_picture_is_an_error_that_says_how_far_off() -> None:
    reference = (141.7, 134.4, 127.6, 143.3, 136.8, 130.7)
    golden.compare("libero_object", (142.0, 134.0, 127.6, 143.3, 136.8, 130.7), reference)
    with pytest.raises(EnvironmentMismatch, match=r"up to 41\.3 levels") as caught:
        golden.compare("libero_object", (141.7, 134.4, 127.6, 102.0, 97.0, 93.0), reference)
    assert caught.value.hint is not None and "python -m dyslctl_libero setup" in caught.value.hint


def test_every_suite_has_a_reference_for_known_scene_files() -> None:
    known: Any = golden.REFERENCES
    assert known
    for references in known.values():
        assert list(references) == list(tasks.TASKS)
        assert all(len(means) == 6 and min(means) > 0 and max(means) < 255 for means in references.values())
