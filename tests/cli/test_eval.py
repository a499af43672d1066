"""``dyslctl eval`` as a user runs it, in a process that starts others, with a simulator that dies."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dyslctl import plugins
from dyslctl.artifacts.bundle import load_bundle
from dyslctl.cli.steps import evaluate, suites
from dyslctl.cli.steps.evaluate import measure_target
from dyslctl.errors import PluginError
from dyslctl.reference.published import published_latency, published_success

EVAL = ("eval", "--method", "full", "--episodes", "4")


def records() -> list[dict[str, Any]]:
    """The episodes of the run's evaluation, without timings."""
    lines = Path("runs/tiny/eval/tiny_reach/episodes.jsonl").read_text().splitlines()
    rows = [{key: value for key, value in json.loads(line).items() if not key.endswith("_ms")} for line in lines]
    return sorted(rows, key=lambda row: row["index"])


def test_a_simulator_that_dies_costs_no_more_than_its_episode(
    profiled: dict[str, Any], document: Callable[..., dict[str, Any]], mortal: Mapping[str, str]
) -> None:
    """An untrained policy fails, so that every episode but the one that always dies leaves a video."""
    how = ("--workers", "2", "--episode-timeout", "120", "--video", "failed", "--json", "--quiet")
    done = subprocess.run(
        [sys.executable, "-m", "dyslctl", *EVAL, *how], env=mortal, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    survived = records()
    assert [row["status"] for row in survived] == ["done", "done", "error", "done"]
    assert survived[2]["error"] == "the worker process died of signal 9 (Killed)"
    assert json.loads(done.stdout)["methods"]["full"]["errors"] == 1
    assert json.loads(done.stdout)["videos"] == [
        f"eval/tiny_reach/videos/full/{name}-failed.mp4" for name in ("reach_blue-1", "reach_blue-3", "reach_red-0")
    ]
    report = Path(document("report")["report_path"]).read_text()
    assert all(f'href="../{video}"' in report for video in json.loads(done.stdout)["videos"])

    assert list(Path("runs").rglob("*.tmp")) == []

    document(*EVAL)
    unharmed = records()
    assert [survived[index] for index in (0, 1, 3)] == [unharmed[index] for index in (0, 1, 3)]


@pytest.mark.parametrize(("option", "value"), [("--video", "some"), ("--episode-timeout", "0")])
def test_a_wrong_value_is_refused(run: Callable[..., Any], profiled: dict[str, Any], option: str, value: str) -> None:
    result = run("eval", option, value)
    assert result.exit_code == 2 and f"eval.{option[2:].replace('-', '_')}" in result.stderr


def test_layers_left_out_one_by_one(paper: dict[str, Any], document: Callable[..., dict[str, Any]]) -> None:
    found = document("eval", "--method", "full,random-skip-layers,dysl-paper", "--episodes", "2")["methods"]
    ran = found["random-skip-layers"]
    assert ran["errors"] == 0
    static = load_bundle(Path(paper["bundle_path"])).header.static_layers
    assert len(static) <= ran["mean_layers_run"] <= found["full"]["mean_layers_run"] == 8


def test_episodes_that_all_crash_say_why_and_fail_the_command(
    profiled: dict[str, Any], run: Callable[..., Any], tiny_backbone: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no such motor")

    monkeypatch.setattr(tiny_backbone, "predict", broken)
    result = run("eval", "--method", "full", "--episodes", "2")
    assert result.exit_code == 3
    assert "full: 2 crashed, the first with: RuntimeError: no such motor" in result.stdout
    assert "'full': every episode crashed, 2 in all, the first with: RuntimeError: no such motor" in result.stderr
    assert json.loads(Path("runs/tiny/eval/tiny_reach/result.json").read_text())["methods"]["full"]["errors"] == 2


def test_interrupted_before_the_comparison_it_goes_on_whatever_lay_there(
    distilled: dict[str, Any],
    document: Callable[..., dict[str, Any]],
    run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    methods = ("--method", "full,dysl,random-skip-adapters")
    document("eval", *methods)

    def measured_and_interrupted(*of: Any, **how: Any) -> float:
        measure_target(*of, **how)
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(evaluate, "measure_target", measured_and_interrupted)
        assert run("eval", *methods, "--seed", "3").exit_code == 130
    assert not Path("runs/tiny/eval/tiny_reach/episodes.jsonl").exists()
    found = document("eval", *methods, "--seed", "3", "--resume")
    assert found["seed"] == 3 and list(found["methods"]) == methods[1].split(",")


@pytest.fixture
def two_suites(run: Callable[..., Any], tiny_suite: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """The suites of LIBERO's names are the tiny one, with as many subtasks as tell them apart."""
    chains = {"libero_object": 1, "libero_10": 2}

    def load(name: str) -> Any:
        suite = tiny_suite(chains.get(name, 1))
        suite.name = name
        return suite

    monkeypatch.setattr(plugins, "load_suite", load)
    monkeypatch.setattr(suites, "published_success", lambda names, _: published_success(names, "openvla-oft"))
    monkeypatch.setattr(suites, "published_devices", lambda _: ["orin"])
    monkeypatch.setattr(suites, "published_latency", lambda device, _: published_latency(device, "openvla-oft"))


SUITES = ("eval", "--suite", "libero_object,libero_10", "--method", "full,dysl", "--episodes", "2")


def test_several_suites_stand_in_one_table_with_what_is_published(
    distilled: dict[str, Any], two_suites: None, document: Callable[..., dict[str, Any]], run: Callable[..., Any]
) -> None:
    found = document(*SUITES)
    assert list(found["suites"]) == ["libero_object", "libero_10"]
    ours = {row["method"]: row for row in found["success"] if row["source"] == "measured"}
    for name, row in ours.items():
        each = [result["methods"][name] for result in found["suites"].values()]
        assert list(row["rates"].values()) == [one["success_rate"] for one in each]
        inferences = [one["inferences_per_episode"] * one["episodes"] for one in each]
        layers = sum(one["mean_layers_run"] * n for one, n in zip(each, inferences, strict=True)) / sum(inferences)
        assert row["layers"] == pytest.approx(layers)
    printed = next(row for row in found["success"] if row["source"] == "published" and row["method"] == "dysl-paper")
    assert printed["rates"] == {"libero_object": 0.982, "libero_10": 0.926}
    sources = [(row["device"], row["source"], row["method"]) for row in found["latency"]]
    assert sources[:4] == [(*of, name) for of in (("cpu", "measured"), ("orin", "predicted")) for name in ours]
    assert sources[4] == ("orin", "published", "full")
    table = Path("runs/tiny/report/suites.md").read_text()
    assert "| full | measured |" in table and "| dysl-paper | published | 98.2 % | 92.6 % |" in table
    assert "DySL-VLA, arXiv 2602.22896, Table 3, OpenVLA_OFT_7B |" in table
    card = Path("runs/tiny/bundles/dysl/README.md").read_text()
    assert "| dysl on libero_object, test |" in card and "| dysl on libero_10, test |" in card
    stored = json.loads(Path("runs/tiny/eval/libero_10/result.json").read_text())
    assert stored["methods"] == found["suites"]["libero_10"]["methods"]
    assert "Success by suite" in Path(document("report")["report_path"]).read_text()


def test_a_condition_is_asked_of_every_suite(
    profiled: dict[str, Any], two_suites: None, run: Callable[..., Any]
) -> None:
    only = ("eval", "--suite", "libero_object,libero_10", "--method", "full")
    result = run(*only, "--batch", "2", "--fail-if", "full.mean_layers_run == 8")
    assert result.exit_code == 5
    assert "not good enough on libero_object" in result.stderr and "not good enough on libero_10" in result.stderr
    assert "nothing measured" in result.stdout


def test_an_unknown_suite_among_several_stops_before_any_episode(
    profiled: dict[str, Any], run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = plugins.load_suite

    def strict(name: str) -> Any:
        if name == "nowhere":
            raise PluginError("no task suite named 'nowhere'")
        return load(name)

    monkeypatch.setattr(plugins, "load_suite", strict)
    result = run("eval", "--suite", "tiny_reach,nowhere", "--method", "full")
    assert result.exit_code == 3 and "nowhere" in result.stderr
    assert not Path("runs/tiny/eval").exists()
