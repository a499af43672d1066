from __future__ import annotations

from typing import Any

import pytest

from dyslctl.report.cells import crashes, interval, number, percent
from dyslctl.report.results import tables

METHOD = {
    "success_rate": 0.9,
    "success_ci95": [0.787, 0.957],
    "errors": 1,
    "mean_layers_run": 12.345,
    "mean_tokens": 108.4,
    "llm_ms_mean": 5.0,
    "llm_ms_p50": 4.5,
    "verifications_per_episode": 0.25,
}
EVAL: dict[str, Any] = {
    "schema": "dyslctl.eval/1",
    "suite": "tabletop_object",
    "episodes": 50,
    "methods": {"full": METHOD, "dysl": {**METHOD, "success_rate": None, "mean_layers_run": None}},
    "paired": {"dysl": {"versus": "full", "wins": 2, "losses": 5, "ties": 43, "p_value": 0.453125}},
}
BENCH: dict[str, Any] = {
    "schema": "dyslctl.bench/1",
    "device": "orin",
    "backbone": "openvla-oft",
    "workload": "openvla-7b",
    "source": "predicted",
    "num_layers": 32,
    "tokens": 605,
    "controller_overhead": 0.011,
    "rows": [
        {
            "method": "full",
            "source": "predicted",
            "llm_ms_p50": 676.0,
            "end_to_end_ms_p50": 897.0,
            "layers_run": 32.0,
            "speedup": 1.0,
            "band_pct": 10.0,
            "calibration": "one row",
        },
        {
            "method": "dysl",
            "source": "published",
            "llm_ms_p50": 345.0,
            "end_to_end_ms_p50": None,
            "layers_run": None,
            "speedup": 1.96,
            "citation": "Table 3",
            "flag": "n unknown",
        },
    ],
}


def test_formatting() -> None:
    assert (number(1234.56, 1), number(None)) == ("1,234.6", "–")
    assert (percent(0.945), percent(None)) == ("94.5 %", "–")
    assert (interval([0.787, 0.957]), interval(None)) == ("78.7–95.7", "–")


def test_an_evaluation_has_its_methods_and_its_pairs() -> None:
    success, paired = tables(EVAL)
    assert success.rows[0] == ("full", "90.0 %", "78.7–95.7", "1", "12.35", "108", "5.00", "4.50", "0.25")
    assert success.rows[1][1] == "–"
    assert "50 paired episodes" in success.notes[0]
    assert paired.rows == [("dysl", "full", "2", "5", "0.453")]


def test_chains_have_a_table_of_their_own() -> None:
    chain = {**METHOD, "avg_len": 2.75, "avg_len_ci95": [1.5, 3.25], "chain_rates": [0.75, 0.25]}
    crashed = {**METHOD, "avg_len": None, "avg_len_ci95": None, "chain_rates": None}
    _, chains, _ = tables({**EVAL, "methods": {"full": chain, "dysl": crashed}})
    assert [column.header for column in chains.columns[1:]] == [
        "average length",
        "95 % interval",
        "1 in a row",
        "2 in a row",
    ]
    assert chains.rows == [("full", "2.750", "1.50–3.25", "75.0 %", "25.0 %")]
    assert len(tables({**EVAL, "methods": {"full": {**chain, "chain_rates": [0.9]}}})) == 2


def test_an_evaluation_side_by_side_says_that_it_was_not_timed() -> None:
    untimed = {**METHOD, "llm_ms_mean": None, "llm_ms_p50": None}
    success, _ = tables({**EVAL, "batch": 32, "methods": {"full": untimed}})
    assert success.rows[0][6:8] == ("–", "–")
    assert success.notes[1] == "not timed: 32 episodes ran side by side (--batch 1 times them)"
    assert not any("not timed" in note for note in tables({**EVAL, "batch": 1})[0].notes)


def test_crashed_episodes_say_why() -> None:
    methods = {"full": {**METHOD, "errors": 0}, "dysl": {**METHOD, "first_error": "RuntimeError: no motor"}}
    (success, *_) = tables({**EVAL, "methods": methods})
    assert success.notes[1:] == ["dysl: 1 crashed, the first with: RuntimeError: no motor; --resume plays them again"]
    assert crashes({"full": METHOD}, " on reach")[0].startswith("full on reach: 1 crashed, the first with: unknown")


def test_no_pairs_no_table() -> None:
    assert len(tables({**EVAL, "paired": {}})) == 1


def test_the_full_pass_on_fewer_tokens_has_a_table() -> None:
    sweep = [
        {"tokens": 605, "llm_ms_p50": 676.0, "end_to_end_ms_p50": 897.0, "speedup": 1.0}
        | {"saving_efficiency": None, "ms_per_token": None},
        {"tokens": 305, "llm_ms_p50": 406.0, "end_to_end_ms_p50": 627.0, "speedup": 676 / 406}
        | {"saving_efficiency": 0.8055, "ms_per_token": 0.9},
    ]
    _, table = tables({**BENCH, "tokens_sweep": sweep})
    assert table.title == "The full pass on fewer tokens, predicted"
    assert table.rows == [
        ("605", "676.00", "897.00", "1.00", "–", "–"),
        ("305", "406.00", "627.00", "1.67", "80.5 %", "900.0"),
    ]


def test_latency_rows_say_where_they_come_from() -> None:
    (table,) = tables(BENCH)
    assert table.rows[0] == ("full", "predicted", "676.00", "–", "10", "897.00", "32.00", "–", "–", "1.00", "–")
    assert table.rows[1] == ("dysl", "published", "345.00", "–", "–", "–", "–", "–", "–", "1.96", "–")
    assert table.title == "Latency on orin: openvla-7b, 32 layers, 605 tokens, batch 1"
    assert table.notes == [
        "speedup is that of the mean time: full / method",
        "controllers that never skip cost 1.1 % of the LLM time",
        "predicted: one row",
        "published: Table 3",
        "published dysl: n unknown",
    ]


@pytest.mark.parametrize("overhead", [None, 0.0])
def test_a_missing_overhead_is_not_zero(overhead: float | None) -> None:
    (table,) = tables({**BENCH, "controller_overhead": overhead})
    assert any("controllers" in note for note in table.notes) == (overhead is not None)
