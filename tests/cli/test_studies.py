"""``dyslctl analyze importance|similarity|...`` on the tiny backbone: real commands, all the way to the report."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from typer.testing import Result

from dyslctl.errors import ConfigError

Run = Callable[..., Result]
Documents = Callable[..., dict[str, Any]]
STUDIES = ("importance", "similarity", "kept-layers", "continuity", "allow-points", "latency")
FEW = ("--episodes", "2")


def kept(study: str, found: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of the CSV; document, picture and drawing must be there too."""
    folder = Path("runs/tiny/analysis") / study / "tiny_reach"
    assert json.loads((folder / "result.json").read_text())["schema"] == found["schema"] == f"dyslctl.{study}/1"
    for ending in ("png", "svg"):
        assert Path(f"runs/tiny/report/{study}_tiny_reach.{ending}").stat().st_size > 1000
    with (folder / f"{study}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_importance(profiled: dict[str, Any], document: Documents) -> None:
    found = document("analyze", "importance", *FEW, "--parts", "2", "--noise", "2,0.5")
    assert [(row["part"], row["noise"]) for row in found["rows"]] == [(0, 0.5), (0, 2.0), (1, 0.5), (1, 2.0)]
    rows = kept("importance", found)
    assert [(row["start"], row["noise"], row["episodes"]) for row in rows][-1] == ("0.5", "2.0", "2")
    assert found["method"] == "full" and found["undisturbed"]["success_rate"] is not None


def test_similarity(profiled: dict[str, Any], document: Documents) -> None:
    found = document("analyze", "similarity", *FEW)
    assert [row["layer"] for row in found["rows"]] == list(range(8))
    assert [row["similarity"] for row in found["rows"]] == pytest.approx(profiled["similarity"])
    assert [row["layer"] for row in found["rows"] if row["static"]] == profiled["static_layers"]
    assert len(kept("similarity", found)) == 8 and len(found["heat_map"]) == 8


def test_kept_layers_and_latency_take_what_is_trained(paper: dict[str, Any], document: Documents) -> None:
    names = ["full", "dysl", "dysl-paper", "dysl-paper-controllers"]
    found = document("analyze", "kept-layers", *FEW)
    assert list(found["methods"]) == names
    shares = {name: sum(row["share"] for row in found["rows"] if row["method"] == name) for name in names}
    assert shares == pytest.approx(dict.fromkeys(names, 1.0))
    assert len(kept("kept-layers", found)) == len(found["rows"])
    found = document("analyze", "latency", *FEW, "--method", "full,dysl-paper")
    for row in found["breakdowns"]:
        assert sum(row["parts_ms"].values()) == pytest.approx(row["total_ms"])
        low, high = row["total_ms_ci95"]
        assert low <= row["total_ms"] <= high
    assert {row["part"] for row in kept("latency", found)} == {*found["breakdowns"][0]["parts_ms"], "together"}


def test_latency_of_a_method_that_prunes(profiled: dict[str, Any], document: Documents) -> None:
    found = document("analyze", "latency", *FEW, "--method", "full,fastv")
    full, fastv = (row["parts_ms"] for row in found["breakdowns"])
    assert full["tokens"] == fastv["controllers"] == 0 < fastv["tokens"]


def test_continuity(distilled: dict[str, Any], document: Documents) -> None:
    found = document("analyze", "continuity", *FEW, "--ranges", "2")
    assert (found["method"], len(found["rows"]), found["everywhere"]["share"]) == ("dysl", 2, 1.0)
    assert sum(row["share"] for row in found["rows"]) == pytest.approx(1.0)
    assert found["rows"][0]["low"] is None and found["rows"][-1]["high"] is None
    assert {"delta", "continuity", "speed", "fine", "flip", "asked"} <= {row["signal"] for row in found["signals"]}
    assert {row["table"] for row in kept("continuity", found)} == {"ranges", "signals"}


def test_allow_points(paper: dict[str, Any], document: Documents) -> None:
    found = document("analyze", "allow-points", "--episode", "1")
    assert (found["episode"], found["method"]) == (1, "dysl-paper")
    assert {len(moment["points"]) for moment in found["moments"]} == {len(found["segments"])}
    assert len(kept("allow-points", found)) == len(found["moments"])


def test_the_report_shows_them_all(paper: dict[str, Any], document: Documents, run: Run) -> None:
    for study in STUDIES:
        few = () if study == "allow-points" else FEW
        shown = run("analyze", study, *few, "--quiet")
        assert shown.exit_code == 0 and "tiny_reach" in shown.stdout, shown.stderr
    found = document("report")
    assert {f"dyslctl.{study}/1" for study in STUDIES} <= set(found["results"])
    page = Path(found["report_path"]).read_text(encoding="utf-8")
    assert all(f"(Fig. {number})" in page for number in (1, 3, 4, 6, 8, 10))


@pytest.mark.parametrize("study", ["importance", "similarity", "continuity", "kept-layers", "latency"])
def test_resumed_it_plays_nothing_again(
    study: str, paper: dict[str, Any], document: Documents, run: Run, monkeypatch: pytest.MonkeyPatch, tiny_suite: Any
) -> None:
    small = {"importance": ("--parts", "2", "--noise", "1"), "continuity": ("--ranges", "2")}.get(study, ())
    whole = document("analyze", study, *FEW, *small)

    def fail(*_: object) -> NoReturn:
        raise ConfigError("played")

    monkeypatch.setattr(tiny_suite, "make", fail)
    again = document("analyze", study, *FEW, *small, "--resume")
    assert (again.get("rows"), again.get("methods")) == (whole.get("rows"), whole.get("methods"))
    assert "played" in run("analyze", study, "--episodes", "3", *small, "--resume", "-q").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["continuity"], 4, "there is no bundle at runs/tiny/bundles/dysl"),
        (["allow-points"], 4, "there is no bundle at runs/tiny/bundles/dysl-paper"),
        (["latency", "--method", "full,dysl"], 4, "dyslctl distill --method dysl makes it"),
        (["latency", "--method", "oracle"], 2, "its time means nothing"),
        (["latency", "--method", "oracle"], 2, "hint: leave 'oracle' out of --method"),
        (["continuity", "--method", "full"], 2, "expected dysl, dysl-paper-controllers, flexidepth, found 'full'"),
        (["continuity", "--method", "full"], 2, "hint: --method dysl"),
        (["allow-points", "--method", "full"], 2, "skipping-allow points"),
        (["importance", "--set", "analyze.methods=[full, dysl]"], 2, "expected one method, found full, dysl"),
        (["importance", "--method", "ful"], 2, "no method named 'ful'"),
        (["importance", "--noise", "0"], 2, "greater than 0"),
        (["importance", "--noise", "a"], 2, "--noise: expected numbers"),
        (["similarity", "--episodes", "0"], 2, "analyze.episodes"),
    ],
)
def test_bad_input_fails_before_any_work(
    profiled: dict[str, Any], run: Run, arguments: list[str], code: int, message: str
) -> None:
    result = run("analyze", *arguments, "--quiet")
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
    assert not Path("runs/tiny/analysis").exists()


def test_similarity_needs_what_profile_measured(profiled: dict[str, Any], run: Run) -> None:
    Path("runs/tiny/similarity.json").unlink()
    result = run("analyze", "similarity", "--quiet")
    assert result.exit_code == 4 and "dyslctl profile makes it" in result.stderr
