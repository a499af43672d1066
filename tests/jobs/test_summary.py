from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from dyslctl.errors import PluginError
from dyslctl.jobs.episodes import EpisodeRecord
from dyslctl.jobs.summary import compare, require_played, summarize, summarize_method


def record(method: str, index: int, score: int, **values: Any) -> EpisodeRecord:
    fields = {"inferences": 2, "layers_run": 10, "controllers": 4, "verifications": 1, "llm_ms": [1.0, 3.0], **values}
    return EpisodeRecord(
        method, "chain", "test", index, "task", index, fields.pop("status", "done"), score, score == 2, **fields
    )


def crash(method: str, index: int) -> EpisodeRecord:
    return EpisodeRecord(method, "chain", "test", index, "task", index, "error", error="RuntimeError: x")


def test_a_summary_by_hand() -> None:
    """Three finished chains of two: scores 2, 0, 2; inferences 2, 2, 4; layers 10, 10, 10; one crash."""
    records = [
        record("dysl", 0, 2),
        record("dysl", 1, 0, verifications=0),
        record("dysl", 2, 2, inferences=4, llm_ms=[1.0, 1.0, 2.0, 10.0]),
        crash("dysl", 3),
    ]
    summary = summarize_method(records)
    assert (summary.episodes, summary.successes, summary.errors) == (3, 2, 1)
    assert summary.success_rate == pytest.approx(2 / 3)
    assert summary.success_ci95 == pytest.approx((0.2077, 0.9385), abs=1e-4)
    assert summary.avg_len == pytest.approx(4 / 3)
    assert summary.avg_len_ci95 == (0.0, 2.0)
    assert summary.mean_layers_run == 30 / 8
    assert summary.layers_per_episode == 10.0
    assert summary.inferences_per_episode == pytest.approx(8 / 3)
    assert summary.controllers_per_inference == 12 / 8
    assert summary.verifications_per_episode == pytest.approx(2 / 3)
    assert summary.llm_ms_mean == pytest.approx(22 / 8)  # 1 3 1 3 1 1 2 10
    assert summary.llm_ms_p50 == 1.5


def test_how_far_chains_get() -> None:
    """Scores 5 3 3 0, one crash: 3 of 4 solve one to three in a row, 1 of 4 all five."""
    records = [record("dysl", index, score) for index, score in enumerate((5, 3, 3, 0))]
    summary = summarize_method([*records, crash("dysl", 4)], max_score=5)
    assert summary.chain_rates == (0.75, 0.75, 0.75, 0.25, 0.25)
    assert sum(summary.chain_rates) == summary.avg_len == 2.75
    assert summarize_method([crash("dysl", 0)], max_score=5).chain_rates is None
    single = summarize_method([record("dysl", 0, 1), record("dysl", 1, 0)])
    assert single.chain_rates == (0.5,)


def test_a_method_that_only_crashed_has_no_rate() -> None:
    summary = summarize_method([crash("dysl", 0), crash("dysl", 1)])
    assert (summary.episodes, summary.errors, summary.success_ci95) == (0, 2, (0.0, 1.0))
    assert summary.success_rate is None and summary.llm_ms_p50 is None and summary.mean_layers_run is None
    assert summary.first_error == crash("dysl", 0).error
    with pytest.raises(PluginError, match="'dysl' on chain: every episode crashed, 2 in all, the first with: "):
        require_played({"dysl": asdict(summary)}, "chain")
    some = summarize_method([crash("dysl", 0), record("dysl", 1, 2)])
    require_played({"dysl": asdict(some)})


def test_only_pairs_that_both_finished_are_compared() -> None:
    method = [record("dysl", 0, 2), record("dysl", 1, 1), record("dysl", 2, 2), crash("dysl", 3), record("dysl", 4, 2)]
    full = [record("full", 0, 2), record("full", 1, 2), record("full", 2, 0), record("full", 3, 2), crash("full", 4)]
    found = compare(method, full)
    assert (found.versus, found.wins, found.losses, found.ties, found.p_value) == ("full", 1, 1, 1, 1.0)
    assert found.score_difference == pytest.approx((0 - 1 + 2) / 3)


def test_without_pairs_there_is_no_difference() -> None:
    found = compare([record("dysl", 0, 2)], [crash("full", 0)])
    assert (found.wins, found.losses, found.ties, found.p_value) == (0, 0, 0, 1.0)
    assert found.score_difference is None and found.score_difference_ci95 is None


def test_the_document_has_the_promised_keys() -> None:
    records = [record("full", 0, 2), record("dysl", 0, 2)]
    result = summarize("chain", "test", 1, ["full", "dysl"], records)
    document = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert next(iter(document)) == "schema" and document["schema"] == "dyslctl.eval/1"
    assert (document["suite"], document["episodes"], list(document["methods"])) == ("chain", 1, ["full", "dysl"])
    promised = {
        "successes",
        "success_rate",
        "success_ci95",
        "errors",
        "mean_layers_run",
        "llm_ms_mean",
        "llm_ms_p50",
        "verifications_per_episode",
    }
    assert promised <= document["methods"]["dysl"].keys()
    assert list(document["paired"]) == ["dysl"]
    assert {"versus", "wins", "losses", "ties", "p_value"} <= document["paired"]["dysl"].keys()


def test_without_the_full_model_nothing_is_paired() -> None:
    assert summarize("chain", "test", 1, ["dysl"], [record("dysl", 0, 2)]).paired == {}


def test_records_come_back_in_order() -> None:
    records = [record("b", 1, 0), record("a", 1, 0), record("b", 0, 0), record("a", 0, 0)]
    result = summarize("chain", "test", 2, ["b", "a"], records)
    assert [(r.index, r.method) for r in result.records] == [(0, "b"), (0, "a"), (1, "b"), (1, "a")]


def test_dysl_is_compared_with_chance_too() -> None:
    rows = [("full", 2), ("dysl", 2), ("random-skip-adapters", 0)]
    records = [record(name, index, score) for index in range(3) for name, score in rows]
    paired = summarize("suite", "test", 3, [name for name, _ in rows], records).paired
    assert list(paired) == ["dysl", "random-skip-adapters", "dysl vs random-skip-adapters"]
    chance = paired["dysl vs random-skip-adapters"]
    assert (chance.versus, chance.wins, chance.losses, chance.ties) == ("random-skip-adapters", 3, 0, 0)


def test_tokens_are_a_mean_over_the_layers_whose_tokens_are_known() -> None:
    """Episodes recorded before tokens were counted, and those of the oracle, say nothing about them."""
    known, unknown = record("dysl", 0, 2, layer_tokens=900), record("dysl", 1, 2)
    assert summarize_method([known, unknown]).mean_tokens == 90
    assert summarize_method([unknown]).mean_tokens is None


def test_a_crash_leaves_a_choice_of_episodes() -> None:
    played = [record("dysl", 0, 2), record("full", 0, 2), crash("dysl", 1), record("full", 1, 2)]
    with pytest.raises(PluginError, match=r"1 of 4 episodes of 'full', 'dysl' crashed, .*: RuntimeError: x") as caught:
        summarize("chain", "test", 2, ["full", "dysl"], played, 2).require_finished()
    assert caught.value.hint is not None and "--resume" in caught.value.hint
    summarize("chain", "test", 1, ["full", "dysl"], played[:2], 2).require_finished()
