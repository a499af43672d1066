"""Suites and environments on a stand-in simulator: the rules around it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dyslctl_calvin import CalvinABC, CalvinD, CalvinDFixtures, initial_states, sequences, suite
from dyslctl_calvin.sequences import Chain
from dyslctl_calvin.settings import Settings
from dyslctl_calvin.suite import CalvinEnvironment

from dyslctl import plugins
from dyslctl.data.mapping import DataMap, Gripper
from dyslctl.data.open import open_source
from dyslctl.errors import ConfigError, NotInstalled, PluginError
from dyslctl.jobs.demos import DemoSettings, Format, record
from dyslctl.suite import EpisodeSpec, StepResult, TaskSuite
from dyslctl.testing import check_suite

IDLE = np.array([0, 0, 0, 0, 0, 0, 1], np.float32)
SOLVE = np.array([1, 0, 0, 0, 0, 0, 1], np.float32)
PUSHED = np.array([0, 0.25, 0, 0, 0, 0, 1], np.float32)
TEST = EpisodeSpec("calvin_d", "test", 0, "chain", 0)


@pytest.mark.parametrize("name", ["calvin_d", "calvin_abc", "calvin_d_fixtures"])
def test_the_official_protocol(name: str) -> None:
    found = plugins.load_suite(name)
    assert (found.name, found.max_score, found.max_steps, found.execute_horizon) == (name, 5, 5 * 360, 1)
    assert (found.action_dim, found.control_frequency, list(found.tasks)) == (7, 30, ["chain"])
    specs = found.episodes("test", 1000)
    assert [(spec.index, spec.seed) for spec in specs] == [(i, i) for i in range(1000)]
    with pytest.raises(ConfigError, match="--episodes 1000"):
        found.episodes("test", 1001)


@pytest.mark.parametrize("kind", [CalvinD, CalvinABC, CalvinDFixtures])
def test_the_contract_of_a_task_suite(
    kind: type[Any], stage: None, make: Callable[[Any], CalvinEnvironment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "make", lambda self: make(self))
    check_suite(kind())


def test_without_a_simulator_the_commands_that_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dyslctl_calvin.installation._version", lambda name: None)
    monkeypatch.setattr("dyslctl_calvin.installation._installed", lambda: None)
    for use in (CalvinD().make, CalvinABC().identity):
        with pytest.raises(NotInstalled, match=r"pybullet: expected ==3\.2\.7, found none"):
            use()


def test_test_episodes_are_the_official_chains_in_scene_d(environment: CalvinEnvironment, chain: Chain) -> None:
    observation = environment.reset(TEST)
    simulator: Any = environment.simulator
    assert simulator.scene == "D" and observation.instruction == "pull the handle to open the drawer"
    np.testing.assert_array_equal(simulator.began[0].scene_obs(), initial_states.official(chain.start).scene_obs())


def test_a_file_of_chains_takes_the_place_of_the_official_ones_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chain: Chain
) -> None:
    path = tmp_path / "chains.json"
    path.write_text(sequences.canonical([chain]))
    monkeypatch.setenv("DYSLCTL_CALVIN_SEQUENCES", str(path))
    assert len(CalvinD().episodes("test", 1)) == 1
    with pytest.raises(ConfigError, match="split 'test' has 1 chains"):
        CalvinABC().episodes("test", 2)
    last = CalvinDFixtures().episodes("test", 1000)[-1]
    assert CalvinDFixtures().beginning(last)[0] == sequences.generate(sequences.FIXTURES)[-1]


def test_where_one_learns_for_abc(make: Callable[[Any], CalvinEnvironment]) -> None:
    abc = CalvinABC()
    environment = make(abc)
    scenes = []
    for spec in [*abc.episodes("train", 4), *abc.episodes("tune", 2), *abc.episodes("test", 1)]:
        environment.reset(spec)
        scenes.append(environment.simulator.scene)
    assert scenes == ["A", "B", "C", "A", "A", "B", "D"]


def test_a_scene_is_kept_as_long_as_it_stays(make: Callable[[Any], CalvinEnvironment]) -> None:
    environment = make(CalvinD())
    for spec in [*CalvinD().episodes("train", 2), TEST]:
        environment.reset(spec)
    assert len(environment.simulator.began) == 3  # type: ignore[attr-defined]


def run(environment: CalvinEnvironment, *actions: np.ndarray) -> list[StepResult]:
    return [environment.step(action) for action in actions]


def test_a_chain_solved_to_its_end(environment: CalvinEnvironment, chain: Chain) -> None:
    environment.reset(TEST)
    results = run(environment, *[IDLE, SOLVE] * 5)
    assert [result.score for result in results] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert [result.done for result in results] == [False] * 9 + [True]
    assert [result.new_instruction for result in results] == [False, True] * 4 + [False, False]
    said = [result.observation.instruction for result in results]
    assert said[0] == "pull the handle to open the drawer" and said[1] == "press the button to turn on the led light"
    assert said[-1] == said[-2] == "push the sliding door to the left side"


def test_the_oracle_compares_with_the_beginning_of_the_instruction(environment: CalvinEnvironment) -> None:
    """After every action, for the instruction at hand only, and from where the one before was solved."""
    environment.reset(TEST)
    half = np.array([0.5, 0, 0, 0, 0, 0, 1], np.float32)
    run(environment, half, half, half, half)
    simulator: Any = environment.simulator
    assert simulator.asked == [("open_drawer", 0.0), ("open_drawer", 0.0), ("turn_on_led", 1.0), ("turn_on_led", 1.0)]


def test_the_first_instruction_that_takes_too_long_ends_the_chain(environment: CalvinEnvironment) -> None:
    environment.reset(TEST)
    results = run(environment, SOLVE, *[IDLE] * 360)
    assert [result.done for result in results] == [False] * 360 + [True]
    assert results[-1].score == 1
    late = environment.step(SOLVE)
    assert (late.done, late.score, late.new_instruction) == (True, 1, False)
    assert len(environment.simulator.executed) == 361  # type: ignore[attr-defined]


def test_the_limit_is_that_of_an_instruction_and_its_last_action_counts(environment: CalvinEnvironment) -> None:
    environment.reset(TEST)
    for count in range(1, 5):
        results = run(environment, *[IDLE] * 359, SOLVE)
        assert (results[-1].score, results[-1].done) == (count, False)


def test_nothing_moves_after_the_end(environment: CalvinEnvironment) -> None:
    environment.reset(TEST)
    run(environment, *[SOLVE] * 5)
    again = environment.step(SOLVE)
    assert (again.done, again.score, again.new_instruction) == (True, 5, False)
    assert len(environment.simulator.executed) == 5  # type: ignore[attr-defined]
    assert environment.reset(TEST).instruction == "pull the handle to open the drawer"
    assert not environment.step(IDLE).done


@pytest.mark.parametrize(("fingers", "executed"), [(0.3, 1), (1, 1), (0, -1), (-0.001, -1), (-1, -1)])
def test_fingers_are_open_or_closed(environment: CalvinEnvironment, fingers: float, executed: int) -> None:
    environment.reset(TEST)
    environment.step(np.array([0, 0, 0, 0, 0, 0, fingers], np.float32))
    assert environment.simulator.executed[0][-1] == executed  # type: ignore[attr-defined]


def test_actions_are_cast_to_half_precision_and_not_clipped(environment: CalvinEnvironment) -> None:
    environment.reset(TEST)
    given = np.array([0.1, -3.0, 1 / 3, 0, 0, 0, 1], np.float64)
    environment.step(given)
    (executed,) = environment.simulator.executed  # type: ignore[attr-defined]
    assert executed.dtype == np.float16 and executed[1] == -3
    assert float(executed[0]) == 0.0999755859375 and given[0] == 0.1  # the nearest half; the caller's stays


@pytest.mark.parametrize(
    "action", [np.zeros(6), np.zeros((1, 7)), np.full(7, np.nan), np.full(7, np.inf), np.full(7, 1e5)]
)
def test_a_bad_action_is_refused(environment: CalvinEnvironment, action: np.ndarray) -> None:
    environment.reset(TEST)
    with pytest.raises(PluginError, match=r"expected a finite action of shape \[7\]"):
        environment.step(action)
    assert environment.simulator.executed == []  # type: ignore[attr-defined]


def test_nothing_before_reset(environment: CalvinEnvironment) -> None:
    with pytest.raises(PluginError, match="expected reset"):
        environment.step(IDLE)


def test_pictures_are_painted_when_looked_at_and_show_their_own_moment(
    environment: CalvinEnvironment, painted: list[float]
) -> None:
    first = environment.reset(TEST)
    second = environment.step(SOLVE).observation
    environment.step(SOLVE)
    assert painted == []
    assert list(second.images) == ["static", "gripper"]
    assert [int(image[0, 0, 0]) for image in second.painted().images.values()] == [1, 101]
    assert int(first.images["gripper"][0, 0, 0]) == 100
    assert painted == [1.0, 0.0]
    assert second.proprio is not None and second.proprio.tolist() == [1.0] * 15


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"task": "open_drawer"}, {"suite": "calvin_abc"}, {"split": "train"}, {"index": 3}]
)
def test_only_its_own_episodes_are_played(environment: CalvinEnvironment, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="calvin_d has no episode"):
        environment.reset(replace(TEST, **change))


def test_a_file_of_chains_takes_the_place_of_the_official_ones(
    tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chains.json"
    path.write_text(json.dumps([[chain.start, chain.tasks]] * 3))
    monkeypatch.setenv("DYSLCTL_CALVIN_SEQUENCES", str(path))
    assert len(CalvinD().episodes("test", 3)) == 3
    with pytest.raises(ConfigError, match="split 'test' has 3 chains"):
        CalvinD().episodes("test", 4)
    assert CalvinD().beginning(TEST)[0] == chain
    assert len(CalvinD().episodes("train", 2000)) == 2000


def test_what_an_evaluation_depends_on(tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chains.json"
    path.write_text(json.dumps([[chain.start, chain.tasks]]))
    monkeypatch.setenv("DYSLCTL_CALVIN_SEQUENCES", str(path))
    monkeypatch.setenv("DYSLCTL_CALVIN_RENDERER", "egl")
    monkeypatch.setattr(suite, "prepare", lambda settings: suite.Installation(tmp_path, "3.2.7"))
    found = CalvinD().identity()
    drawn = {"pybullet": "3.2.7", "renderer": "egl", "image_size": 200}
    assert {key: found[key] for key in drawn} == drawn
    assert found["sequences"] == sequences.digest([chain])[:12] and len(found["calvin_env"]) == 12
    json.dumps(found)


def test_a_suite_travels_to_a_worker_process() -> None:
    found: TaskSuite = pickle.loads(pickle.dumps(CalvinD()))  # noqa: S301
    assert found.episodes("test", 1) == [TEST]


@pytest.fixture
def stage(make: Callable[[Any], CalvinEnvironment], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An expert that solves an instruction with the second action."""
    monkeypatch.setattr(suite, "prepare", lambda settings: suite.Installation(tmp_path, "3.2.7"))
    monkeypatch.setattr(suite, "expert", lambda simulator, task: cycle([IDLE, SOLVE]))
    suite._stage.cache_clear()
    yield
    suite._stage.cache_clear()


def test_a_demonstration_goes_through_the_chain(stage: None) -> None:
    shown = CalvinD().demonstrate(TEST)
    assert (len(shown.observations), len(shown.actions), shown.score) == (10, 10, 5)
    said = [observation.instruction for observation in shown.observations]
    assert said[:4] == ["pull the handle to open the drawer"] * 2 + ["press the button to turn on the led light"] * 2
    np.testing.assert_array_equal(shown.chunk(1, 3), [SOLVE] * 3)  # the next instruction is not known yet


def test_a_disturbed_demonstration_executes_one_thing_and_holds_another(stage: None) -> None:
    shown = CalvinD().demonstrate_disturbed(TEST, lambda action, _: action if action is SOLVE else PUSHED)
    np.testing.assert_array_equal(shown.actions[:2], [IDLE, SOLVE])
    executed = suite._stage(CalvinD, Settings.of()).simulator.executed  # type: ignore[attr-defined]
    assert executed[0][1] == 0.25 and executed[1][0] == 1


@pytest.mark.parametrize("format_", ["lerobot", "calvin"])
def test_demonstrations_are_read_back_as_they_were_shown(stage: None, tmp_path: Path, format_: Format) -> None:
    """In CALVIN's own format each instruction is an episode; the gripper opens at 1 in the files, and when executed."""
    record(CalvinD(), tmp_path / "set", 2, DemoSettings(format=format_, noop_threshold=None))
    source = open_source(str(tmp_path / "set"))
    found = [source.episode(number) for number in range(len(source))]
    assert len(found) == {"lerobot": 2, "calvin": 10}[format_] and source.execute_horizon == 1
    shown = [CalvinD().demonstrate(spec) for spec in CalvinD().episodes("train", 2)]
    np.testing.assert_array_equal(
        np.concatenate([each.actions for each in found]), np.concatenate([each.actions for each in shown])
    )
    for seen, then in zip(
        (step for each in found for step in each.observations),
        (step for each in shown for step in each.observations),
        strict=True,
    ):
        assert seen.instruction == then.instruction and list(seen.images) == list(then.images)
        np.testing.assert_array_equal(seen.images["gripper"], then.images["gripper"])
    written = DataMap.load(str(tmp_path / "set/data-map.yaml"))
    assert written.gripper == DataMap.load("calvin").gripper == Gripper(open=1.0, closed=-1.0, executed_open=1)
    if format_ == "calvin":
        assert written.views == DataMap.load("calvin").views and written.proprio == ("robot_obs",)


def test_the_experts_scene_stays_unless_something_goes_wrong(stage: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        CalvinD().demonstrate(TEST)
    made: Any = suite.Simulator
    assert made.made == 1
    with monkeypatch.context() as patch, pytest.raises(PluginError, match="expected a finite action"):
        patch.setattr(suite, "expert", lambda *_: iter([np.full(7, np.nan)]))
        CalvinD().demonstrate(TEST)
    CalvinD().demonstrate(TEST)
    assert made.made == 2
