"""Token pruning through real commands: beside layer skipping, and the clock on fewer tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import Result

Run = Callable[..., Result]
Documents = Callable[..., dict[str, Any]]


def test_layers_tokens_and_both_on_the_same_episodes(distilled: dict[str, Any], document: Documents) -> None:
    names = "full,dysl,specprune,dysl+specprune"
    found = document("eval", "--episodes", "2", "--method", names, "--set", "pruning.agreement=or")
    methods = found["methods"]
    assert list(methods) == names.split(",")
    assert methods["specprune"]["mean_layers_run"] == methods["full"]["mean_layers_run"] == 8
    assert methods["specprune"]["mean_tokens"] < methods["full"]["mean_tokens"]
    assert methods["dysl+specprune"]["mean_layers_run"] <= 8
    assert methods["dysl+specprune"]["mean_tokens"] <= methods["dysl"]["mean_tokens"]


def test_the_full_pass_on_fewer_tokens(profiled: dict[str, Any], document: Documents, run: Run) -> None:
    arguments = ("bench", "--method", "full", "--tokens", "13,12")
    found = document(*arguments)
    assert [row["tokens"] for row in found["tokens_sweep"]] == [15, 13, 12]
    assert all(Path(figure).exists() for figure in found["figures"].values()) and len(found["figures"]) == 2
    shown = run(*arguments, "--quiet")
    assert "The full pass on fewer tokens, measured" in shown.stdout
    refused = run("bench", "--method", "full", "--tokens", "11", "--quiet")
    assert refused.exit_code == 2 and "--tokens 11: expected at least 12" in refused.stderr
    assert run("bench", "--tokens", "1.5", "--quiet").exit_code == 2


def test_retained_tokens_of_an_episode(profiled: dict[str, Any], document: Documents, run: Run) -> None:
    found = document("analyze", "tokens", "--episode", "1")
    assert (found["schema"], found["method"], found["tokens_per_view"]) == ("dyslctl.tokens/1", "specprune", [4])
    assert [row["layer"] for row in found["layers"]] == list(range(8))
    lines = Path(found["csv"]).read_text().splitlines()
    assert len(lines) == 1 + len(found["moments"]) + 8
    assert all(Path(figure).stat().st_size > 1000 for figure in found["figures"].values())
    shown = run("analyze", "tokens", "--method", "divprune", "--quiet")
    assert "Tokens that divprune retains" in shown.stdout and "Entropy" in shown.stdout
    refused = run("analyze", "tokens", "--method", "full", "--quiet")
    assert refused.exit_code == 2 and "expected one that prunes tokens" in refused.stderr
    assert "dyslctl.tokens/1" in document("report")["results"]
