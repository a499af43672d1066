"""``dyslctl calibrate`` on the tiny backbone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from dyslctl.artifacts.strict_yaml import read_yaml
from dyslctl.cli.workspace import with_subtasks
from dyslctl.jobs import closed_loop, rollout
from dyslctl.plugins import load_suite
from dyslctl.suite import EpisodeSpec

Run = Callable[..., Result]
Documents = Callable[..., dict[str, Any]]
SETTINGS = Path("runs/tiny/bundles/dysl/bundle.yaml")


def test_the_dial_stands_in_the_bundle_with_where_it_comes_from(distilled: dict[str, Any], document: Documents) -> None:
    found = document("calibrate", "--target-layers", "5", "--episodes", "2")
    assert found["schema"] == "dyslctl.calibrate/1"
    assert (found["method"], found["split"], found["episodes"], found["target"]) == ("dysl", "tune", 2, "5 layers")
    chosen = next(tried for tried in found["tried"] if tried["dial"] == found["dial"])
    assert chosen["layers"] == found["layers_per_inference"]
    assert all(abs(chosen["layers"] - 5) <= abs(tried["layers"] - 5) for tried in found["tried"])
    settings = read_yaml(SETTINGS)
    assert settings["exits"]["tolerance"] == found["dial"]
    calibration = settings["calibration"]
    assert (calibration["rule"], calibration["split"], calibration["episodes"]) == ("closed loop: 5 layers", "tune", 2)
    assert calibration["numbers"]["layers"] == found["layers_per_inference"]
    assert {"success", "success_low", "success_high", "dial"} <= set(calibration["numbers"])
    card = (SETTINGS.parent / "README.md").read_text()
    assert f"log tolerance {found['dial']:.4g}" in card and "states of `tiny_reach`" in card
    assert json.loads(Path("runs/tiny/calibrate/dysl/result.json").read_text())["dial"] == found["dial"]


def test_a_calibrated_bundle_runs_what_was_found(distilled: dict[str, Any], document: Documents) -> None:
    found = document("calibrate", "--target-layers", "6", "--episodes", "2")
    arguments = ("--episodes", "2", "--split", "tune", "--batch", "32")
    evaluated = document("eval", "--method", "dysl", *arguments)["methods"]["dysl"]
    assert evaluated["mean_layers_run"] == pytest.approx(found["layers_per_inference"])


def test_dysl_paper_moves_its_controllers_and_keeps_its_guidance(profiled: dict[str, Any], document: Documents) -> None:
    document("distill", "--method", "dysl-paper")
    path = Path("runs/tiny/bundles/dysl-paper/bundle.yaml")
    before = read_yaml(path)
    arguments = ("calibrate", "--method", "dysl-paper", "--target-layers", "6", "--episodes", "2")
    dial = document(*arguments)["dial"]
    after = read_yaml(path)
    assert (after["guidance"]["tau"], after["guidance"]["lenience"]) == (0.5, dial)
    assert {key: after["guidance"][key] for key in ("eta_1", "eta_2", "k")} == {
        key: before["guidance"][key] for key in ("eta_1", "eta_2", "k")
    }
    assert after["calibration"]["rule"] == "occupancy; closed loop: 6 layers"
    assert before["calibration"]["numbers"].items() <= after["calibration"]["numbers"].items()
    assert document(*arguments)["dial"] == dial, "wherever it stood before"
    assert read_yaml(path)["calibration"]["rule"] == "occupancy; closed loop: 6 layers"


def test_the_drop_is_against_the_full_model(distilled: dict[str, Any], document: Documents) -> None:
    """Nobody solves anything here, so that nothing can be lost: as few layers as there are."""
    found = document("calibrate", "--max-success-drop", "1pp", "--episodes", "2")
    assert found["target"] == "at most 1 points of success lost" and found["met"]
    assert found["layers_per_inference"] == min(tried["layers"] for tried in found["tried"])


def test_a_drop_is_reported_with_its_interval_and_n(distilled: dict[str, Any], document: Documents, run: Run) -> None:
    """No win and no loss in 2 episodes: 0 +- 1.95996 * sqrt((2 / 4) / 4) = 69.3 points."""
    found = document("calibrate", "--max-success-drop", "1pp", "--episodes", "2")
    assert (found["success_drop_pp"], found["success_drop_pp_ci95"]) == (0, pytest.approx([-69.3, 69.3], abs=0.05))
    numbers = read_yaml(SETTINGS)["calibration"]["numbers"]
    assert [numbers["drop_pp_low"], numbers["drop_pp_high"]] == found["success_drop_pp_ci95"]
    table = run("calibrate", "--max-success-drop", "1pp", "--episodes", "2", "--resume", "--quiet").stdout
    assert "lost against full: 0.0 points, 95 % interval -69.3 to 69.3, n = 2 paired" in " ".join(table.split())
    found = document("calibrate", "--target-layers", "5", "--episodes", "2", "--resume")
    assert found["success_drop_pp"] is None and "drop_pp" not in read_yaml(SETTINGS)["calibration"]["numbers"]


def test_milliseconds_are_met_and_kept(
    distilled: dict[str, Any], document: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer takes 2 ms: 16 ms are all of them."""
    monkeypatch.setattr(closed_loop.ClosedLoop, "ms_per_layer", lambda *_: 2.0)
    found = document("calibrate", "--target-ms", "16", "--episodes", "1")
    assert (found["target"], found["met"], found["llm_ms"]) == ("16 ms", True, 16.0)
    assert read_yaml(SETTINGS)["calibration"]["numbers"]["llm_ms"] == 16.0


@pytest.mark.parametrize(
    ("asked", "end", "hint"), [("1000", "at most 16.00", "below"), ("0.001", "at least 4.00", "above")]
)
def test_milliseconds_out_of_reach_leave_the_bundle_as_it_was(
    distilled: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch, asked: str, end: str, hint: str
) -> None:
    monkeypatch.setattr(closed_loop.ClosedLoop, "ms_per_layer", lambda *_: 2.0)
    files = (SETTINGS, SETTINGS.with_name("README.md"), Path("runs/tiny/calibrate/dysl/result.json"))
    before = [path.read_bytes() for path in files]
    result = run("calibrate", "--target-ms", asked, "--episodes", "1", "-q")
    said = " ".join(result.stderr.replace("│", "").split())
    assert result.exit_code == 2 and f"{asked} ms: 'dysl' takes {end} ms on these episodes" in said
    assert f"--target-ms {hint} {end.split()[-1]}" in said
    assert [path.read_bytes() for path in files] == before


def test_the_table_says_the_target_and_n(distilled: dict[str, Any], run: Run) -> None:
    result = run("calibrate", "--target-layers", "5", "--episodes", "2", "--quiet")
    assert result.exit_code == 0 and "Dials of dysl" in result.stdout
    for text in ("target: 5 layers", "standard error over episodes", "n = 2 tune", "chosen"):
        assert text in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a target, found none"),
        (["--target-layers", "5", "--target-ms", "3"], "found 2: target_layers, target_ms"),
        (["--target-layers", "0"], "greater than 0"),
        (["--max-success-drop", "1%", "--target-layers", "5"], "percentage points such as 1pp"),
        (["--target-layers", "5", "--method", "full"], "'full' has no dial of its own"),
        (["--target-layers", "50"], "50 layers: the model has 8"),
        (["--target-layers", "5", "--method", "dysl-paper-no-pre"], "--method dysl or dysl-paper"),
        (["--target-layers", "5", "--method", "dysel"], "Did you mean 'dysl'"),
        (["--target-layers", "1", "--episodes", "2", "-q"], "'dysl' takes at least 2.00 layers"),
    ],
)
def test_what_cannot_be_met_leaves_the_bundle_as_it_was(
    distilled: dict[str, Any], run: Run, arguments: list[str], message: str
) -> None:
    before = SETTINGS.read_bytes()
    result = run("calibrate", *arguments)
    assert result.exit_code == 2 and message in " ".join(result.stderr.replace("│", "").split())
    assert SETTINGS.read_bytes() == before


def test_interrupted_it_goes_on_whatever_another_search_left(
    distilled: dict[str, Any], document: Documents, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``distill`` tried dials with the bundle that it was about to set."""
    asked = ("calibrate", "--target-layers", "5", "--episodes", "2")
    assert list(Path("runs/tiny/calibrate/dysl").glob("dial_*"))
    with monkeypatch.context() as interrupted:
        interrupted.setattr(closed_loop.ClosedLoop, "at", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(*asked).exit_code == 130
    assert document(*asked, "--resume")["target"] == "5 layers"


def test_the_lock_of_a_process_that_was_killed_is_no_trial(distilled: dict[str, Any], document: Documents) -> None:
    Path("runs/tiny/calibrate/dysl/dial_-2.lock").touch()
    assert document("calibrate", "--target-layers", "5", "--episodes", "2")["target"] == "5 layers"


def test_resumed_it_goes_on_with_what_another_target_has_tried(
    distilled: dict[str, Any], document: Documents, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dial of the file plays no part in a trial; the modules do."""
    first = document("calibrate", "--target-layers", "5", "--episodes", "2")
    played = list[EpisodeSpec]()

    def noted(suite: Any, policies: Any, tasks: Any, *rest: Any) -> Iterator[Any]:
        played.extend(tasks)
        yield from ()

    with monkeypatch.context() as noting:
        noting.setattr(rollout, "play", noted)
        again = document("calibrate", "--target-layers", "5", "--episodes", "2", "--resume")
    assert again["tried"] == first["tried"] and played == []
    document("distill", "--set", "distill.adapter_lr=0.01")
    found = document("calibrate", "--target-layers", "5", "--episodes", "2", "--resume")
    assert found["target"] == "5 layers"


def test_without_a_bundle_it_says_what_makes_one(profiled: dict[str, Any], run: Run) -> None:
    result = run("calibrate", "--target-layers", "5")
    assert result.exit_code == 4 and "dyslctl distill" in result.stderr


@pytest.mark.parametrize(("suite", "count", "expected"), [("object", 200, 200), ("chain", 200, 40), ("chain", 3, 1)])
def test_chains_count_by_their_subtasks(suite: str, count: int, expected: int) -> None:
    assert with_subtasks(load_suite(f"tabletop_{suite}"), count) == expected
