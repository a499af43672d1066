from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.errors import ArtifactError, ConfigError, ThresholdNotMet
from dyslctl.jobs.regression import Change, changes, check_regression, parse_percent, read_baseline


def document(*rows: dict[str, Any], **about: Any) -> dict[str, Any]:
    return {
        "schema": "dyslctl.bench/1",
        "device": "cpu",
        "machine": "a chip",
        "threads": 1,
        "rows": list(rows),
        **about,
    }


def row(method: str, llm: float | None, end: float = 10.0, source: str = "measured") -> dict[str, Any]:
    return {"method": method, "source": source, "llm_ms_p50": llm, "end_to_end_ms_p50": end}


def test_every_figure_of_every_shared_method_is_compared() -> None:
    then = document(row("full", 8.0), row("dysl", 4.0), row("full", 1.0, source="published"))
    now = document(row("dysl", 5.0, 9.0), row("static", 3.0))
    found = changes(then, now)
    assert [(c.method, c.figure, c.then, c.now) for c in found] == [
        ("dysl", "llm_ms_p50", 4.0, 5.0),
        ("dysl", "end_to_end_ms_p50", 10.0, 9.0),
    ]
    assert [c.share for c in found] == pytest.approx([0.25, -0.1])
    assert found[0].as_dict() == {
        "method": "dysl", "figure": "llm_ms_p50", "then": 4.0, "now": 5.0, "change": 0.25,
    }  # fmt: skip


def test_only_what_grew_beyond_the_limit_fails_and_all_of_it_is_said() -> None:
    found = changes(document(row("full", 8.0), row("dysl", 4.0)), document(row("full", 8.4), row("dysl", 4.4, 11.0)))
    check_regression(found, 0.11)
    with pytest.raises(ThresholdNotMet, match=r"by more than 7\.5%") as caught:
        check_regression(found, 0.075)
    assert caught.value.message.count("dysl.") == 2 and "full." not in caught.value.message
    assert "dysl.llm_ms_p50: 4 ms then, 4.4 ms now (+10.0%)" in caught.value.message


@given(then=st.floats(1e-3, 1e4), now=st.floats(1e-3, 1e4), limit=st.floats(0, 10))
def test_it_fails_exactly_beyond_the_limit(then: float, now: float, limit: float) -> None:
    change = Change("full", "llm_ms_p50", then, now)
    if change.share > limit:
        with pytest.raises(ThresholdNotMet):
            check_regression([change], limit)
    else:
        check_regression([change], limit)


@pytest.mark.parametrize("key", ["device", "machine", "threads", "dtype", "tokens", "source"])
def test_other_circumstances_are_named_with_both_sides(key: str) -> None:
    with pytest.raises(ArtifactError, match=f"other circumstances\n  {key}: then 'else', now") as caught:
        changes(document(row("full", 1.0), **{key: "else"}), document(row("full", 1.0)))
    assert caught.value.hint


def test_no_method_in_common_is_an_error() -> None:
    with pytest.raises(ArtifactError, match="found then full, now none"):
        changes(document(row("full", 1.0)), document(row("full", 1.0, source="published")))


def test_percentages() -> None:
    assert [parse_percent(text) for text in ("5%", "0%", "2.5%")] == [0.05, 0.0, 0.025]
    for text in ("5", "-1%", "nan%", "%", "five%", "inf%"):
        with pytest.raises(ConfigError, match="expected a percentage such as 5%, found"):
            parse_percent(text)


@pytest.mark.parametrize("content", ["{}", '{"schema": "dyslctl.eval/1", "rows": []}', '{"schema": "dyslctl.bench/1"}'])
def test_what_is_no_result_of_bench_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "it.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"it\.json: expected a document of dyslctl\.bench/1"):
        read_baseline(tmp_path / "it.json")


@pytest.mark.parametrize("broken", [None, {"source": "measured"}, row("full", 0.0), row("full", float("nan"))])
def test_a_damaged_row_is_named(tmp_path: Path, broken: Any) -> None:
    (tmp_path / "it.json").write_text(json.dumps(document(row("full", 1.0), broken)))
    with pytest.raises(ArtifactError, match=r"it\.json: rows\[1\]: expected method, source and positive milliseconds"):
        read_baseline(tmp_path / "it.json")


def test_a_result_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "it.json").write_text(json.dumps(document(row("full", 1.0))))
    assert read_baseline(tmp_path / "it.json") == document(row("full", 1.0))
