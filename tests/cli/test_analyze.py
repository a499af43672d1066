"""``dyslctl analyze pareto`` on the tiny backbone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from typer.testing import Result

from dyslctl.artifacts.bundle import ExitModuleSizes, load_bundle
from dyslctl.artifacts.files import read_json, write_json
from dyslctl.cli.steps import seeds
from dyslctl.errors import ConfigError

Run = Callable[..., Result]
Documents = Callable[..., dict[str, Any]]
OUT = Path("runs/tiny/analysis/pareto/tiny_reach")
SEEDS = Path("runs/tiny/seeds")
SMALL = (
    *("--set", "distill.episodes=2", "--set", "distill.batch_size=4", "--set", "distill.steps=3"),
    *("--set", "guidance.episodes=2", "--episodes", "3", "--tune-episodes", "2"),
)
PARETO = ("analyze", "pareto", *SMALL, "--method", "dysl,random-skip-adapters", "--budgets", "4,6")


def test_pareto_trains_sets_plays_and_compares(profiled: dict[str, Any], document: Documents, run: Run) -> None:
    found = document(*PARETO, "--seeds", "0,1", "--set", "model.dtype=bfloat16")
    assert found["dtype"] == "bfloat16"
    assert (found["schema"], found["split"], found["tune_split"]) == ("dyslctl.pareto/1", "test", "tune")
    assert (found["episodes"], found["tune_episodes"], found["seeds"]) == (3, 2, [0, 1])
    assert (found["methods"], found["compared"]) == (["full", "dysl", "random-skip-adapters"], "dysl")
    seen = [(point["method"], point["label"], point["seed"]) for point in found["points"]]
    labels = [("dysl", "4"), ("dysl", "6")]
    labels += [("random-skip-adapters", "like dysl at 4"), ("random-skip-adapters", "like dysl at 6")]
    assert seen == [("full", "", None), *[(*label, seed) for seed in (0, 1) for label in labels]]
    for point in found["points"]:
        assert point["episodes"] == 3 and point["llm_ms_mean"] is None
    like = {(p["seed"], p["label"]): p["target_layers"] for p in found["points"] if p["method"] != "dysl"}
    for dysl in (point for point in found["points"] if point["method"] == "dysl"):
        assert like[dysl["seed"], f"like dysl at {dysl['label']}"] == dysl["tune"]["layers"]
    assert found["pooled"][0]["layers_per_inference"] == 8
    assert {(pair["label"], pair["rival"]) for pair in found["matched"]} == {
        (label, rival) for label in ("4", "6") for rival in ("full", "random-skip-adapters")
    }
    assert (OUT / "points.csv").read_text().count("\n") == 1 + len(found["points"]) + len(found["pooled"])
    assert json.loads((OUT / "result.json").read_text())["pooled"] == found["pooled"]
    assert Path("runs/current").read_text() == "tiny\n"
    assert [load_bundle(SEEDS / f"seed{seed}/bundles/dysl").header.training.seed for seed in (0, 1)] == [0, 1]
    assert "Success against layers" in Path(document("report")["report_path"]).read_text(encoding="utf-8")
    # The run of a seed is a run: its dial can be set, and then it is evaluated.
    calibrate = ("calibrate", "--run", str(SEEDS / "seed1"), "--target-layers", "5", "--episodes", "2", "--quiet")
    assert run(*calibrate).exit_code == 0
    assert run("eval", "--run", str(SEEDS / "seed1"), "--method", "dysl", "--quiet").exit_code == 0


def test_resumed_it_trains_and_plays_nothing_again(
    profiled: dict[str, Any], document: Documents, run: Run, monkeypatch: pytest.MonkeyPatch, tiny_suite: Any
) -> None:
    one = ("analyze", "pareto", *SMALL, "--method", "dysl", "--budgets", "4", "--seeds", "0", "--resume")
    whole = document(*one)

    def fail(what: str) -> NoReturn:
        raise ConfigError(what)

    with monkeypatch.context() as unable:
        unable.setattr(tiny_suite, "make", lambda self: fail("played"))
        unable.setattr(seeds, "run_distill", lambda *_, **__: fail("trained"))
        assert document(*one) == whole
        assert "played" in run(*one, "--budgets", "5", "-q").stderr
        assert "trained" in run(*one, "--set", "distill.steps=4", "-q").stderr


def test_each_training_takes_the_settings_that_it_knows(
    profiled: dict[str, Any], document: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``remembers`` is for exits and ``penalty_weight`` for controllers; a change of one trains the other not again."""
    both = ("analyze", "pareto", *SMALL, "--method", "dysl,dysl-paper", "--budgets", "6", "--seeds", "0", "--resume")
    document(*both, "--set", "distill.remembers=false", "--set", "distill.penalty_weight=0.5")
    header = load_bundle(SEEDS / "seed0/bundles/dysl").header
    assert isinstance(header.modules, ExitModuleSizes) and not header.modules.remembers
    settings = [read_json(SEEDS / f"seed0/trained_{name}.json")["distill"] for name in ("dysl", "dysl-paper")]
    assert [(each.get("remembers"), each.get("penalty_weight")) for each in settings] == [(False, None), (None, 0.5)]
    trained: list[str] = []
    monkeypatch.setattr(seeds, "run_distill", lambda work, *_, **__: trained.append(work.config.distill.method))
    document(*both, "--set", "distill.remembers=false", "--set", "distill.penalty_weight=0.25")
    assert trained == ["dysl-paper"]


def test_what_changes_no_weights_trains_nothing_again(
    profiled: dict[str, Any], document: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither do marks of before a key was known: they name all that were, set or not."""
    one = ("analyze", "pareto", *SMALL, "--method", "dysl", "--budgets", "4", "--seeds", "0", "--resume")
    document(*one)
    trained: list[str] = []
    monkeypatch.setattr(seeds, "run_distill", lambda work, *_, **__: trained.append(work.config.distill.method))
    document(*one, "--set", "distill.workers=2")
    mark = SEEDS / "seed0/trained_dysl.json"
    told = read_json(mark)
    write_json(mark, {**told, "distill": {**told["distill"], "workers": 3, "explore": None, "hard": None}})
    document(*one)
    assert trained == []
    write_json(mark, {**told, "distill": {**told["distill"], "explore": 0.1}})
    document(*one)
    assert trained == ["dysl"]


def test_a_bundle_that_was_replaced_is_trained_again(
    profiled: dict[str, Any], document: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command works on the run of a seed, ``distill`` too."""
    one = ("analyze", "pareto", *SMALL, "--method", "dysl", "--budgets", "4", "--seeds", "0", "--resume")
    document(*one)
    document("distill", "--run", str(SEEDS / "seed0"), "--seed", "7")
    trained, train = list[str](), seeds.run_distill

    def noted(work: Any, *rest: Any, **how: Any) -> dict[str, Any]:
        trained.append(work.config.distill.method)
        return train(work, *rest, **how)

    monkeypatch.setattr(seeds, "run_distill", noted)
    document(*one)
    document(*one)
    assert trained == ["dysl"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budgets", "5,x"], "--budgets: expected numbers"),
        (["--budgets", "0"], "greater than 0"),
        (["--seeds", "0.5"], "pareto.seeds"),
        (["--method", "dysl,statc"], "no method named 'statc'"),
        (["--method", "full"], "'full' is always there"),
        (["--method", "dysl,static", "--set", "distill.kd_weight=1.0"], "distill.kd_weight: no method in use"),
        (["--method", "dysl-paper", "--set", "distill.remembers=false"], "distill.remembers: no method in use"),
        (["--method", "random-skip", "--set", "distill.steps=3"], "nothing is trained"),
    ],
)
def test_bad_input_fails_before_any_work(
    profiled: dict[str, Any], run: Run, arguments: list[str], message: str
) -> None:
    result = run("analyze", "pareto", *arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert not Path("runs/tiny/analysis").exists()


def test_analyze_alone_lists_what_there_is(run: Run) -> None:
    assert "pareto" in run("analyze", "--help").stdout
