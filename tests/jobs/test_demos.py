"""Recording a suite's expert: what is kept, what is replaced, and that no break shows in the files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dyslctl import plugins
from dyslctl.artifacts.lock import locked
from dyslctl.data.encoding import ImageCoding
from dyslctl.data.mapping import DataMap, Gripper
from dyslctl.data.open import open_source
from dyslctl.errors import ArtifactError, ConfigError, EnvironmentMismatch, PluginError
from dyslctl.jobs import demos
from dyslctl.jobs.crew import Died
from dyslctl.jobs.demo_disturbance import Disturbance
from dyslctl.jobs.demos import DemoSettings, record
from dyslctl.suite import Demonstration, Disturb, EpisodeSpec, TaskSuite

if TYPE_CHECKING:
    from tests.tiny import TinyReach

LEROBOT, HDF5 = DemoSettings(), DemoSettings(format="hdf5")


class Broken(BaseException):
    """Stands for a kill."""


@pytest.fixture
def suite(tiny_suite: type[TinyReach]) -> Callable[..., TaskSuite]:
    """``suite(failing=(3,), breaks_at=5)``: an expert that fails in some states; the n-th demonstration breaks off."""

    class Expert(tiny_suite):  # type: ignore[misc, valid-type]
        def __init__(self, failing: Sequence[int] = (), breaks_at: int | None = None, chain: int = 1) -> None:
            super().__init__(chain)
            self.failing, self.breaks_at, self.shown = failing, breaks_at, list[int]()

        def demonstrate_disturbed(self, spec: EpisodeSpec, disturb: Disturb) -> Demonstration:
            self.shown.append(spec.index)
            if len(self.shown) == self.breaks_at:
                raise Broken
            true: Demonstration = super().demonstrate_disturbed(spec, disturb)
            return replace(true, score=0) if spec.index in self.failing else true

    return Expert


def content(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("settings", [LEROBOT, HDF5])
def test_the_data_set_is_what_the_expert_saw_and_did(
    suite: Callable[..., TaskSuite], tmp_path: Path, settings: DemoSettings
) -> None:
    acting = suite()
    about = record(acting, tmp_path / "set", 5, settings)
    source = open_source(str(tmp_path / "set"))
    assert (len(source), source.execute_horizon, about["episodes"]) == (5, 2, 5)
    # HDF5 has a file for each task: first all of blue, then all of red.
    order = range(5) if settings.format == "lerobot" else (1, 3, 0, 2, 4)
    for number, index in enumerate(order):
        found, expected = source.episode(number), acting.demonstrate(acting.episodes("train", 5)[index])
        np.testing.assert_array_equal(found.actions, expected.actions)
        for seen, then in zip(found.observations, expected.observations, strict=True):
            assert seen.instruction == then.instruction
            assert seen.proprio is not None and then.proprio is not None
            np.testing.assert_array_equal(seen.proprio, then.proprio)
            assert {view: image.tolist() for view, image in seen.images.items()} == {
                view: image.tolist() for view, image in then.images.items()
            }


def test_a_disturbed_data_set_says_so_and_shows_other_states(suite: Callable[..., TaskSuite], tmp_path: Path) -> None:
    pushed = DemoSettings(disturbance=Disturbance(0.3))
    calm, about = record(suite(), tmp_path / "calm", 4, LEROBOT), record(suite(), tmp_path / "pushed", 4, pushed)
    assert calm["disturbance"] is None
    assert about["disturbance"] == {"share": 0.3, "spread": 0.5, "steps": 8}
    (spec,) = suite().episodes("train", 1)
    expected = suite().demonstrate_disturbed(spec, Disturbance(0.3).of(spec))
    found, undisturbed = (
        open_source(str(tmp_path / "pushed")).episode(0),
        open_source(str(tmp_path / "calm")).episode(0),
    )
    np.testing.assert_array_equal(found.actions, expected.actions)
    assert not np.array_equal(found.observations[-1].proprio, undisturbed.observations[-1].proprio)


def test_who_records_does_not_change_the_pushes(suite: Callable[..., TaskSuite], tmp_path: Path) -> None:
    pushed = DemoSettings(disturbance=Disturbance(0.3))
    record(suite(), tmp_path / "whole", 5, pushed)
    with pytest.raises(Broken):
        record(suite(breaks_at=3), tmp_path / "broken", 5, pushed)
    with pytest.raises(ArtifactError, match="disturbance"):
        record(suite(), tmp_path / "broken", 5, LEROBOT, resume=True)
    record(suite(), tmp_path / "broken", 5, pushed, resume=True)
    assert content(tmp_path / "broken") == content(tmp_path / "whole")


def test_a_suite_without_such_an_expert_says_so(suite: Callable[..., TaskSuite], tmp_path: Path) -> None:
    steadfast: Any = suite()
    steadfast.demonstrate_disturbed = partial(TaskSuite.demonstrate_disturbed, steadfast)
    with pytest.raises(PluginError, match="no expert that can be disturbed"):
        record(steadfast, tmp_path / "set", 2, DemoSettings(disturbance=Disturbance(0.3)))


def test_only_what_was_solved_is_kept_and_all_is_counted(suite: Callable[..., TaskSuite], tmp_path: Path) -> None:
    acting = suite(failing=(0, 3))
    about = record(acting, tmp_path / "set", 4, LEROBOT)
    lengths = {index: len(acting.demonstrate(acting.episodes("train", 6)[index]).actions) for index in (1, 2, 4, 5)}
    assert (about["episodes"], about["failed"], about["skipped_tasks"]) == (4, 2, [])
    assert about["frames"] == sum(lengths.values())
    assert about["tasks"]["reach_red"] == {
        "episodes": 2,
        "failed": 1,
        "errors": 0,
        "frames": lengths[2] + lengths[4],
    }
    assert json.loads((tmp_path / "set/demos.json").read_text()) == about
    assert not (tmp_path / "set.partial").exists()


@pytest.mark.parametrize("settings", [LEROBOT, HDF5])
@pytest.mark.parametrize("breaks_at", [1, 3, 6])
def test_after_a_break_the_files_are_those_of_a_run_without_one(
    suite: Callable[..., TaskSuite], tmp_path: Path, settings: DemoSettings, breaks_at: int
) -> None:
    record(suite(failing=(1,)), tmp_path / "whole", 5, settings)
    with pytest.raises(Broken):
        record(suite(failing=(1,), breaks_at=breaks_at), tmp_path / "broken", 5, settings)
    assert not (tmp_path / "broken").exists()
    resumed: Any = suite(failing=(1,))
    record(resumed, tmp_path / "broken", 5, settings, resume=True)
    assert len(resumed.shown) == 6 - (breaks_at - 1)  # what was in flight is all that is lost
    assert content(tmp_path / "broken") == content(tmp_path / "whole")


def test_a_break_while_putting_together_costs_no_demonstration(
    suite: Callable[..., TaskSuite], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(suite(), tmp_path / "whole", 3, LEROBOT)

    def breaks(*_: object, **__: object) -> None:
        raise Broken

    with monkeypatch.context() as patch, pytest.raises(Broken):
        patch.setattr(demos, "write_lerobot", breaks)
        record(suite(), tmp_path / "broken", 3, LEROBOT)
    resumed: Any = suite()
    record(resumed, tmp_path / "broken", 3, LEROBOT, resume=True)
    assert resumed.shown == []
    assert content(tmp_path / "broken") == content(tmp_path / "whole")


def test_more_can_be_asked_for_when_resuming(suite: Callable[..., TaskSuite], tmp_path: Path) -> None:
    record(suite(), tmp_path / "whole", 6, LEROBOT)
    with pytest.raises(Broken):
        record(suite(breaks_at=4), tmp_path / "grown", 4, LEROBOT)
    record(suite(), tmp_path / "grown", 6, LEROBOT, resume=True)
    assert content(tmp_path / "grown") == content(tmp_path / "whole")


def test_resuming_with_other_settings_is_refused(suite: Callable[..., TaskSuite], tmp_path: Path) -> None:
    with pytest.raises(Broken):
        record(suite(breaks_at=2), tmp_path / "set", 4, LEROBOT)
    jpeg = DemoSettings(coding=ImageCoding(90))
    with pytest.raises(ArtifactError, match=r"images\.coding: then 'png', now 'jpeg'"):
        record(suite(), tmp_path / "set", 4, jpeg, resume=True)
    assert record(suite(), tmp_path / "set", 4, jpeg)["episodes"] == 4  # anew


def test_what_is_finished_stays(suite: Callable[..., TaskSuite], tmp_path: Path) -> None:
    about = record(suite(), tmp_path / "set", 3, LEROBOT)
    before = content(tmp_path / "set")
    with pytest.raises(ConfigError, match="expected a new folder"):
        record(suite(), tmp_path / "set", 3, LEROBOT)
    again: Any = suite()
    assert record(again, tmp_path / "set", 3, LEROBOT, resume=True) == about
    with pytest.raises(ArtifactError, match=r"shares\.reach_blue: then 1, now 2"):
        record(again, tmp_path / "set", 4, LEROBOT, resume=True)
    assert again.shown == [] and content(tmp_path / "set") == before


def test_two_recordings_of_one_data_set_at_once_are_an_error(suite: Callable[..., TaskSuite], tmp_path: Path) -> None:
    with pytest.raises(Broken):
        record(suite(breaks_at=3), tmp_path / "set", 3, LEROBOT)
    before = content(tmp_path)
    with locked(tmp_path / "set.lock", "", ""), pytest.raises(EnvironmentMismatch, match="set is being recorded by"):
        record(suite(), tmp_path / "set", 3, LEROBOT)
    assert content(tmp_path) == before


def test_a_folder_of_something_else_stays(suite: Callable[..., TaskSuite], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    for resume in (False, True):
        with pytest.raises(ConfigError, match="expected a new folder"):
            record(suite(), tmp_path, 1, LEROBOT, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_happens_to_have_the_name_of_an_unfinished_one_stays(
    suite: Callable[..., TaskSuite], tmp_path: Path
) -> None:
    thesis = tmp_path / "set.partial/thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("")
    for resume in (False, True):
        with pytest.raises(ConfigError, match="expected an unfinished recording, found other files"):
            record(suite(), tmp_path / "set", 1, LEROBOT, resume=resume)
    assert [path.name for path in thesis.parent.iterdir()] == ["thesis.tex"]


def test_a_chain_of_instructions_is_for_lerobot(suite: Callable[..., TaskSuite], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one instruction an episode, found chains of 2"):
        record(suite(chain=2), tmp_path / "a", 1, HDF5)
    assert list(tmp_path.iterdir()) == []
    assert record(suite(chain=2), tmp_path / "b", 1, LEROBOT)["episodes"] == 1
    words = {observation.instruction for observation in open_source(str(tmp_path / "b")).episode(0).observations}
    assert words == {"reach red", "reach blue"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"split": "test"}, "results are reported on"), ({"format": "hdf5", "coding": ImageCoding(90)}, "without loss")],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DemoSettings(**settings)


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    suite = plugins.load_suite("tabletop_object")
    for workers in (1, 2):
        record(suite, tmp_path / str(workers), 3, LEROBOT, workers=workers)
    assert content(tmp_path / "1") == content(tmp_path / "2")


def test_a_crash_of_the_simulator_is_an_error_and_no_failure(
    suite: Callable[..., TaskSuite], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> Demonstration:
        raise FloatingPointError("QACC")

    acting = suite()
    monkeypatch.setattr(type(acting), "demonstrate", crash)
    with pytest.raises(PluginError, match=r"crashed in episode 0 \(reach_red\): FloatingPointError: QACC"):
        record(acting, tmp_path / "set", 2, LEROBOT)
    assert (tmp_path / "set.partial/outcomes.jsonl").read_text() == ""


def played_by(dying: dict[int, str]) -> Callable[..., Any]:
    """In the place of worker processes; some initial states end theirs."""

    def play(make: Callable[[], Any], specs: Sequence[EpisodeSpec], workers: int, timeout: float | None) -> Any:
        assert (workers, timeout) == (1, 5.0)
        for spec in specs:
            yield from [(spec, Died(dying[spec.index]))] if spec.index in dying else make()([spec])

    return play


def test_a_state_that_ends_its_worker_is_replaced_and_is_no_failure(
    suite: Callable[..., TaskSuite], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it can be played it takes its place again, and the files are those of a recording without errors."""
    record(suite(failing=(1,)), tmp_path / "whole", 5, LEROBOT)
    dying = {0: "was stopped after 5 s", 4: "died of signal 9 (Killed)"}
    for name, breaks_at in (("set", None), ("broken", 6)):
        monkeypatch.setattr(demos, "play_in_processes", played_by(dying))
        with suppress(Broken):
            record(suite((1,), breaks_at), tmp_path / name, 5, LEROBOT, episode_timeout=5.0)
    about = json.loads((tmp_path / "set/demos.json").read_text())
    assert (about["episodes"], about["failed"]) == (5, 1)
    assert about["errors"] == {str(index): f"the worker process {how}" for index, how in dying.items()}
    assert {key: about["tasks"]["reach_red"][key] for key in ("episodes", "failed", "errors")} == {
        "episodes": 3,
        "failed": 0,
        "errors": 2,
    }
    monkeypatch.setattr(demos, "play_in_processes", played_by({}))
    record(suite(failing=(1,)), tmp_path / "broken", 5, LEROBOT, episode_timeout=5.0, resume=True)
    assert content(tmp_path / "broken") == content(tmp_path / "whole")


def test_one_equal_error_after_the_other_ends_the_recording(
    suite: Callable[..., TaskSuite], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    always = dict.fromkeys(range(99), "was stopped after 5 s")
    monkeypatch.setattr(demos, "play_in_processes", played_by(always))
    with pytest.raises(
        PluginError, match=r"3 episodes in a row could not be played, the last one 4 \(reach_red\): the w"
    ):
        record(suite(), tmp_path / "set", 6, LEROBOT, episode_timeout=5.0)
    assert not (tmp_path / "set").exists()


def test_the_gripper_is_written_as_the_suite_executes_it(suite: Callable[..., TaskSuite], tmp_path: Path) -> None:
    """And what is read is what was executed, whichever value opens."""
    acting = suite()
    acting.gripper_open = 1
    for settings in (LEROBOT, HDF5):
        out = tmp_path / settings.format
        record(acting, out, 2, settings)
        assert DataMap.load(str(out / "data-map.yaml")).gripper == Gripper(open=1.0, closed=-1.0, executed_open=1)
        shown = [acting.demonstrate(spec).actions[:, -1].tolist() for spec in acting.episodes("train", 2)]
        assert sorted(open_source(str(out)).episode(number).actions[:, -1].tolist() for number in (0, 1)) == sorted(
            shown
        )
