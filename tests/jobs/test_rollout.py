from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dyslctl.artifacts.files import read_json, write_json
from dyslctl.artifacts.lock import locked
from dyslctl.engine import RUN, Jump, LayerSchedule, Step
from dyslctl.errors import ArtifactError, ConfigError, EnvironmentMismatch, PluginError
from dyslctl.jobs.crew import DEATHS, Died
from dyslctl.jobs.rollout import discard, evaluate
from dyslctl.jobs.summary import EvaluationResult
from dyslctl.jobs.workers import Policies, Task
from dyslctl.policy import SchedulePolicy, full_policy
from dyslctl.suite import Environment
from dyslctl.types import LayerState

if TYPE_CHECKING:
    from tests.jobs import flaky, guessing
    from tests.tiny import TinyBackbone, TinyReach

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def importable_guessing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Spawned workers inherit ``sys.path``, and so can unpickle what ``guessing.py`` defines."""
    monkeypatch.syspath_prepend(str(HERE))
    for helper in ("guessing", "flaky"):
        globals()[helper] = importlib.import_module(helper)
    yield


def run(out: Path, count: int = 20, **options: Any) -> EvaluationResult:
    suite = guessing.GuessingSuite()
    return evaluate(suite, guessing.policies(), suite.episodes("test", count), out, **options)


def rows(out: Path) -> list[dict[str, Any]]:
    """The episodes on disk without their timings, by method and index."""
    found = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in row.items() if not key.endswith("_ms")} for row in found]
    return sorted(kept, key=lambda row: (row["method"], row["index"]))


def test_every_method_runs_every_episode_once(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert [(row["method"], row["index"]) for row in rows(tmp_path)] == [
        (method, index) for method in ("dysl", "full") for index in range(20)
    ]
    full, dysl = result.methods["full"], result.methods["dysl"]
    assert 0 < dysl.successes < full.successes < 20
    pairing = result.paired["dysl"]
    assert pairing.wins - pairing.losses == dysl.successes - full.successes
    assert pairing.wins + pairing.losses + pairing.ties == 20
    assert (full.mean_layers_run, dysl.mean_layers_run) == (4.0, 3.0)
    assert (full.llm_ms_p50, dysl.llm_ms_p50) == (2.0, 1.5)


def test_methods_take_turns_within_each_episode(tmp_path: Path) -> None:
    run(tmp_path, count=3)
    order = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert [(row["index"], row["method"]) for row in order] == [
        (0, "full"),
        (0, "dysl"),
        (1, "dysl"),
        (1, "full"),
        (2, "full"),
        (2, "dysl"),
    ]


def test_one_line_by_hand(tmp_path: Path) -> None:
    """A perfect guesser solves a chain of three with its first guess each: three inferences, three actions."""
    suite = guessing.GuessingSuite(max_score=3)
    policy = guessing.NoisyGuesser(noise=0.0, layers=3)
    evaluate(suite, {"dysl": lambda: policy}, suite.episodes("tune", 1), tmp_path)
    assert json.loads((tmp_path / "episodes.jsonl").read_text()) == {
        "method": "dysl",
        "suite": "guessing",
        "split": "tune",
        "index": 0,
        "task": "guess",
        "seed": 100,
        "status": "done",
        "score": 3,
        "success": True,
        "steps": 3,
        "inferences": 3,
        "layers_run": 9,
        "mean_layers_run": 3.0,
        "layers_by_inference": [3, 3, 3],
        "layer_tokens": 0,
        "controllers": 3,
        "jumps": 0,
        "verifications": 3,
        "parts_ms": {"encode": 3.0, "guidance": 0.0, "head": 0.75, "llm": 4.5},
        "llm_ms": [1.5, 1.5, 1.5],
        "reprediction_ms": 0.0,
        "noted": [],
        "error": None,
    }
    assert policy.seeds == [300, 301, 302]


def test_no_subtask_shares_its_seed_with_another(tmp_path: Path) -> None:
    suite = guessing.GuessingSuite(max_score=3)
    policy = guessing.NoisyGuesser(noise=0.0)
    evaluate(suite, {"full": lambda: policy}, suite.episodes("test", 5), tmp_path)
    assert len(set(policy.seeds)) == 15


def test_an_unsolved_episode_ends_at_max_steps(tmp_path: Path) -> None:
    suite = guessing.GuessingSuite(max_score=2)
    evaluate(suite, {"full": partial(guessing.NoisyGuesser, 1e6)}, suite.episodes("test", 1), tmp_path)
    row = rows(tmp_path)[0]
    assert (row["steps"], row["inferences"], row["status"], row["success"]) == (6, 3, "done", False)


def test_the_manifest_says_what_was_evaluated(tmp_path: Path) -> None:
    run(tmp_path, count=2, about={"bundle": "cafe", "layers": (1, 2)})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["schema"] == "dyslctl.episodes/2"
    assert manifest["methods"] == ["full", "dysl"]
    assert (manifest["suite"], manifest["split"], manifest["episodes"]) == ("guessing", "test", 2)
    assert (manifest["execute_horizon"], manifest["workers"], manifest["batch"]) == (2, 1, 1)
    assert manifest["about"] == {"bundle": "cafe", "layers": [1, 2]}
    assert manifest["environment"]["torch"]


@pytest.mark.parametrize(("workers", "batch"), [(1, 1), (2, 1), (1, 4)])
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, workers: int, batch: int) -> None:
    program = [sys.executable, str(HERE / "guessing.py"), str(tmp_path / "killed"), str(workers), str(batch)]
    process = subprocess.Popen(program)
    log = tmp_path / "killed" / "episodes.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") >= 5):
        assert process.poll() is None, "the program ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = len(rows(tmp_path / "killed"))
    assert 5 <= finished < 40

    listener = Counter()
    resumed = run(tmp_path / "killed", resume=True, workers=workers, batch=batch, progress=listener)
    run(tmp_path / "whole")
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert resumed.methods["full"].episodes == 20
    assert listener.steps == [finished] + [1] * (40 - finished)


class Counter:
    """Listens to the progress."""

    def __init__(self) -> None:
        self.total, self.steps, self.open = 0, list[int](), False

    def start(self, total: int, description: str) -> None:
        self.total, self.open = total, True

    def advance(self, amount: int = 1, **fields: float) -> None:
        self.steps.append(amount)

    def close(self) -> None:
        self.open = False


def test_a_line_torn_by_a_power_cut_is_run_again(tmp_path: Path) -> None:
    run(tmp_path)
    whole = rows(tmp_path)
    log = tmp_path / "episodes.jsonl"
    os.truncate(log, log.stat().st_size - 10)
    run(tmp_path, resume=True)
    assert rows(tmp_path) == whole


def test_a_finished_evaluation_is_not_run_again(tmp_path: Path) -> None:
    first = run(tmp_path)
    suite = guessing.GuessingSuite()
    unusable = {name: lambda: pytest.fail("made a policy") for name in ("full", "dysl")}
    again = evaluate(suite, unusable, suite.episodes("test", 20), tmp_path, resume=True)
    assert again == first


def test_the_manifest_keeps_what_the_simulator_says_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "silent", count=1)
    assert json.loads((tmp_path / "silent" / "manifest.json").read_text())["simulator"] == {}
    monkeypatch.setattr(guessing.GuessingSuite, "identity", lambda self: {"version": "1"})
    run(tmp_path / "said", count=1)
    monkeypatch.setattr(guessing.GuessingSuite, "identity", lambda self: {"version": "2"})
    with pytest.raises(ArtifactError, match=r"simulator\.version: then '1', now '2'"):
        run(tmp_path / "said", count=1, resume=True)


def test_without_resume_it_starts_anew(tmp_path: Path) -> None:
    run(tmp_path)
    run(tmp_path, count=2)
    assert len(rows(tmp_path)) == 4


def test_resuming_with_more_episodes_keeps_the_first_ones(tmp_path: Path) -> None:
    begun = run(tmp_path / "more", count=4).records
    extended, anew = run(tmp_path / "more", count=9, resume=True), run(tmp_path / "anew", count=9)
    assert extended == anew and extended.records[:8] == begun
    kept = (tmp_path / "more/episodes.jsonl").read_text().splitlines()[:8]
    assert kept == (tmp_path / "anew/episodes.jsonl").read_text().splitlines()[:8]
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("more", "anew")]
    assert manifests[0] == manifests[1] and manifests[0]["episodes"] == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 1}, "episodes: then 2, now 1"),
        ({"about": {"bundle": "beef"}}, "about.bundle: then 'cafe', now 'beef'"),
        ({"about": {}}, "about.bundle: then 'cafe', now None"),
        ({"workers": 2}, "workers: then 1, now 2"),
        ({"batch": 8}, "batch: then 1, now 8"),
    ],
)
def test_resuming_something_else_names_the_difference(tmp_path: Path, options: Mapping[str, Any], message: str) -> None:
    run(tmp_path, count=2, about={"bundle": "cafe"})
    before = rows(tmp_path)
    with pytest.raises(ArtifactError, match="cannot resume") as caught:
        run(tmp_path, **{"count": 2, "about": {"bundle": "cafe"}, **options}, resume=True)
    assert message in caught.value.message and caught.value.exit_code == 4
    assert rows(tmp_path) == before


def test_a_damaged_log_cannot_be_resumed(tmp_path: Path) -> None:
    run(tmp_path, count=2)
    log = tmp_path / "episodes.jsonl"
    good = log.read_text()
    for bad, message in (("{\n", "line 1 is damaged"), ('{"a":1}\n', "a line is not an episode")):
        log.write_text(bad + good)
        with pytest.raises(ArtifactError, match=message):
            run(tmp_path, count=2, resume=True)


@pytest.mark.parametrize(("batch", "key"), [(1, "threads"), (2, "python")])
def test_another_machine_may_go_on_where_nothing_was_timed(tmp_path: Path, batch: int, key: str) -> None:
    run(tmp_path, count=2, batch=2)
    manifest = read_json(tmp_path / "manifest.json")
    elsewhere = {**manifest["environment"], "threads": 99, "cpu": "another", "cpu_count": 99}
    write_json(tmp_path / "manifest.json", {**manifest, "environment": elsewhere})
    run(tmp_path, count=2, batch=2, resume=True)
    environment = {**manifest["environment"], key: "99"}
    write_json(tmp_path / "manifest.json", {**manifest, "batch": batch, "environment": environment})
    with pytest.raises(ArtifactError, match=rf"environment\.{key}: then '99'"):
        run(tmp_path, count=2, batch=batch, resume=True)


def test_what_is_wrong_with_the_machine_stops_the_run(tmp_path: Path) -> None:
    """A disk that is full for a film is full for the next one, whatever its path."""

    class FullDisk(guessing.NoisyGuesser):
        def reset(self, seed: int = 0) -> None:
            raise EnvironmentMismatch("no space left")

    suite = guessing.GuessingSuite()
    with pytest.raises(EnvironmentMismatch, match="no space left"):
        evaluate(suite, {"full": partial(FullDisk, 0.0)}, suite.episodes("test", 4), tmp_path)


def test_a_simulator_that_cannot_be_made_is_an_error_of_its_episodes(tmp_path: Path) -> None:
    class Broken(guessing.GuessingSuite):
        def make(self) -> Environment:
            raise OSError("no display")

    suite = Broken()
    result = evaluate(suite, {"full": partial(guessing.NoisyGuesser, 0.0)}, suite.episodes("test", 2), tmp_path)
    assert result.methods["full"].first_error == "no simulator: OSError: no display"


def test_a_crash_is_an_error_and_not_a_failure(tmp_path: Path) -> None:
    suite = guessing.GuessingSuite()
    policies: Policies = {"full": partial(guessing.NoisyGuesser, 0.0), "dysl": partial(guessing.Crashing, [101, 103])}
    result = evaluate(suite, policies, suite.episodes("test", 5), tmp_path)
    dysl = result.methods["dysl"]
    assert (dysl.errors, dysl.episodes, dysl.success_rate) == (2, 3, 1.0)
    assert result.paired["dysl"].ties == 3
    errors = [row for row in rows(tmp_path) if row["status"] == "error"]
    assert [row["error"] for row in errors] == ["RuntimeError: broken arm"] * 2

    policies = {**policies, "dysl": partial(guessing.NoisyGuesser, 0.0)}
    repaired = evaluate(suite, policies, suite.episodes("test", 5), tmp_path, resume=True)
    assert (repaired.methods["dysl"].errors, repaired.methods["dysl"].episodes) == (0, 5)
    assert [row["status"] for row in rows(tmp_path)] == ["done"] * 10


def test_three_equal_errors_in_a_row_stop_the_run(tmp_path: Path) -> None:
    suite, listener = guessing.GuessingSuite(), Counter()
    policies: Policies = {
        "full": partial(guessing.NoisyGuesser, 0.0),
        "dysl": partial(guessing.Crashing, [101, 102, 103]),
    }
    with pytest.raises(PluginError, match=r"'dysl' crashed 3 times in a row.*episode 3.*broken arm") as caught:
        evaluate(suite, policies, suite.episodes("test", 8), tmp_path, progress=listener)
    assert caught.value.exit_code == 3 and caught.value.hint is not None and "--resume" in caught.value.hint
    assert len([row for row in rows(tmp_path) if row["method"] == "dysl"]) == 4
    assert not listener.open


@pytest.mark.parametrize("crash", [([100, 101, 103, 104], "broken arm"), ([100, 101, 102, 103], "no. {}")])
def test_other_errors_do_not(tmp_path: Path, crash: tuple[list[int], str]) -> None:
    suite = guessing.GuessingSuite()
    result = evaluate(suite, {"dysl": partial(guessing.Crashing, *crash)}, suite.episodes("test", 6), tmp_path)
    assert result.methods["dysl"].errors == 4


def test_an_action_that_is_not_a_number_is_an_error(tmp_path: Path) -> None:
    suite = guessing.GuessingSuite()
    evaluate(suite, {"full": partial(guessing.NoisyGuesser, np.nan)}, suite.episodes("test", 1), tmp_path)
    assert rows(tmp_path)[0]["error"].startswith("PluginError: expected finite actions")


def test_a_disk_that_fills_up_stops_the_run_and_resuming_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", count=4)
    real, calls = os.write, iter(range(10**6))

    def write(descriptor: int, data: bytes) -> int:
        if next(calls) == 1 + 5:  # the first says who holds the lock
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    with monkeypatch.context() as patch, pytest.raises(EnvironmentMismatch, match="No space left"):
        patch.setattr(os, "write", write)
        run(tmp_path / "cut", count=4)
    assert len(rows(tmp_path / "cut")) == 5
    run(tmp_path / "cut", count=4, resume=True)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_two_evaluations_cannot_share_a_folder(tmp_path: Path) -> None:
    """The file is reopened for every line: episodes of the older would stand under the manifest of the newer."""
    run(tmp_path / "eval", count=1)
    before = rows(tmp_path / "eval")
    with locked(tmp_path / "eval.lock", "", ""):
        for evaluate_or_discard in (lambda: run(tmp_path / "eval", count=1), lambda: discard(tmp_path / "eval")):
            with pytest.raises(EnvironmentMismatch, match="eval is being evaluated by process"):
                evaluate_or_discard()
    assert rows(tmp_path / "eval") == before
    assert [path.name for path in tmp_path.iterdir()] == ["eval"]


def test_an_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "eval").write_text("in the way")
    with pytest.raises(EnvironmentMismatch, match="cannot write"):
        run(tmp_path / "eval" / "guessing")


def test_nothing_to_evaluate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        run(tmp_path, count=0)
    assert list(tmp_path.iterdir()) == []


def test_workers_give_the_same_result(tmp_path: Path) -> None:
    one, two = run(tmp_path / "1"), run(tmp_path / "2", workers=2)
    assert rows(tmp_path / "1") == rows(tmp_path / "2")
    assert two.methods == one.methods and two.paired == one.paired


def accidents(out: Path, what: Mapping[int, tuple[str, int]], **options: Any) -> EvaluationResult:
    """``run`` with six episodes, some of which end their process or worse: seed -> what, and how many times."""
    (out / "diary").mkdir(parents=True, exist_ok=True)
    suite = guessing.AccidentSuite(partial(flaky.befall, out / "diary", what))
    return evaluate(suite, guessing.policies(), suite.episodes("test", 6), out, **options)


@pytest.mark.parametrize(("workers", "batch"), [(2, 1), (1, 3)])
def test_a_simulator_that_dies_or_hangs_is_replaced_and_changes_nothing(
    tmp_path: Path, workers: int, batch: int
) -> None:
    """With a time limit a single worker has a process of its own too."""
    run(tmp_path / "whole", count=6)
    survived = accidents(
        tmp_path / "out", {101: ("kill", 1), 104: ("hang", 1)}, workers=workers, batch=batch, episode_timeout=5.0
    )
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
    assert {method.errors for method in survived.methods.values()} == {0}


def test_an_episode_that_always_kills_is_an_error_and_resuming_repairs_it(tmp_path: Path) -> None:
    """It has killed enough when the second method comes to it."""
    result = accidents(tmp_path, {103: ("exit", DEATHS)}, episode_timeout=60.0)
    errors = [row for row in rows(tmp_path) if row["status"] == "error"]
    assert [(row["method"], row["index"], row["error"]) for row in errors] == [
        ("dysl", 3, "the worker process exited with code 7")
    ]
    assert (result.methods["dysl"].episodes, result.methods["dysl"].errors) == (5, 1)
    repaired, whole = accidents(tmp_path, {}, resume=True), run(tmp_path / "whole", count=6)
    assert rows(tmp_path) == rows(tmp_path / "whole") and repaired.methods == whole.methods


def test_three_equal_deaths_in_a_row_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def all_die(make_player: object, tasks: list[Task], *_: object, **options: object) -> Iterator[tuple[Task, Died]]:
        yield from ((task, Died("died of signal 9 (Killed)")) for task in tasks)

    monkeypatch.setattr("dyslctl.jobs.executor.play_in_processes", all_die)
    with pytest.raises(PluginError, match=r"crashed 3 times in a row.*the worker process died of signal 9"):
        run(tmp_path, workers=2)


def test_an_exception_gets_a_second_chance_in_a_fresh_simulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two episodes crash once, so two simulators are replaced: three are made, and all closed."""
    monkeypatch.setattr(guessing.AccidentWorld, "made", 0)
    monkeypatch.setattr(guessing.AccidentWorld, "closed", 0)
    accidents(tmp_path / "out", {101: ("raise", 1), 104: ("raise", 1)})
    run(tmp_path / "whole", count=6)
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
    assert (guessing.AccidentWorld.made, guessing.AccidentWorld.closed) == (3, 3)


def test_a_policy_that_cannot_be_made_says_so_from_a_worker_too(tmp_path: Path) -> None:
    suite = guessing.GuessingSuite()
    for workers in (1, 2):
        with pytest.raises(ConfigError, match="no such bundle"):
            evaluate(suite, {"full": guessing.unmakeable}, suite.episodes("test", 2), tmp_path, workers=workers)


def test_side_by_side_gives_the_same_episodes_without_timings(tmp_path: Path) -> None:
    """Chains of two: an episode begins its second instruction, and ends, while others are in the middle of theirs."""
    suite = guessing.GuessingSuite(max_score=2)
    for batch in (1, 8):
        result = evaluate(suite, guessing.policies(), suite.episodes("test", 20), tmp_path / str(batch), batch=batch)
    assert rows(tmp_path / "8") == rows(tmp_path / "1")
    assert {row["score"] for row in rows(tmp_path / "8")} == {0, 1, 2}
    assert {method.llm_ms_mean for method in result.methods.values()} == {None}
    record = json.loads((tmp_path / "8" / "episodes.jsonl").read_text().splitlines()[0])
    assert (record["parts_ms"], record["llm_ms"]) == ({}, [])


def test_a_crash_side_by_side_is_the_error_of_its_episode_alone(tmp_path: Path) -> None:
    """In two processes, each with lanes of its own."""
    suite = guessing.GuessingSuite()
    policies: Policies = {"full": partial(guessing.NoisyGuesser, 0.0), "dysl": partial(guessing.Crashing, [101, 103])}
    result = evaluate(suite, policies, suite.episodes("test", 8), tmp_path, batch=4, workers=2)
    errors = [(row["method"], row["index"]) for row in rows(tmp_path) if row["status"] == "error"]
    assert errors == [("dysl", 1), ("dysl", 3)]
    assert (result.methods["full"].successes, result.methods["dysl"].successes) == (8, 6)


def test_a_backbones_policies_side_by_side(
    tmp_path: Path, tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]
) -> None:
    suite, backbone = tiny_suite(), tiny_backbone()
    policies: Policies = {
        "full": lambda: full_policy(backbone, 2),
        "three": lambda: SchedulePolicy(backbone, Skip(), 2),
    }
    for batch in (1, 5):
        evaluate(suite, policies, suite.episodes("test", 6), tmp_path / str(batch), batch=batch)
    assert rows(tmp_path / "5") == rows(tmp_path / "1")
    assert {(row["method"], row["mean_layers_run"]) for row in rows(tmp_path / "5")} == {("full", 8.0), ("three", 3.0)}


class Skip(LayerSchedule):
    """Three layers: 0, 6 and 7."""

    def before(self, layer: int, state: LayerState) -> Step:
        return Jump(6) if layer == 1 else RUN


def test_heads_with_memory_play_side_by_side_what_they_play_alone(
    tmp_path: Path, tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]
) -> None:
    suite, policies = tiny_suite(), {"full": lambda: full_policy(tiny_backbone(memory=True), 2)}
    for batch in (1, 3):
        evaluate(suite, policies, suite.episodes("test", 5), tmp_path / str(batch), batch=batch)
    assert rows(tmp_path / "3") == rows(tmp_path / "1")
