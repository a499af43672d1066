from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.errors import ConfigError, ThresholdNotMet
from dyslctl.jobs.fail_conditions import OPERATORS, Condition, check_conditions, check_paths, look_up, parse_condition

RESULTS: dict[str, Any] = {
    "dysl": {"success_rate": 0.88, "success_ci95": [0.85, 0.91], "llm_ms_p50": None, "ok": True, "nan": float("nan")},
    "dysl+specprune": {"success_rate": 0.5},
    "dysl-paper-no-pre": {"success_rate": 0.25, "errors": 0},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dysl.success_rate < 0.9", Condition("dysl.success_rate", "<", 0.9)),
        ("  dysl.success_rate<=.9 ", Condition("dysl.success_rate", "<=", 0.9)),
        ("dysl-paper-no-pre.errors>0", Condition("dysl-paper-no-pre.errors", ">", 0)),
        ("dysl+specprune.success_rate != 5e-1", Condition("dysl+specprune.success_rate", "!=", 0.5)),
        ("rows.0.speedup >= -1", Condition("rows.0.speedup", ">=", -1)),
        ("skip_efficiency == 1", Condition("skip_efficiency", "==", 1)),
    ],
)
def test_conditions_that_parse(text: str, expected: Condition) -> None:
    assert parse_condition(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dysl.success_rate",
        "dysl.success_rate < high",
        "dysl.success_rate < nan",
        "dysl.success_rate < inf",
        "dysl.success_rate =< 0.9",
        "dysl.success_rate = 0.9",
        "0.9 > dysl..success_rate",
        ".a < 1",
        "a < 1 or b < 2",
        "__import__('os').system('true') < 1",
        "a[0] < 1",
    ],
)
def test_conditions_that_do_not(text: str) -> None:
    with pytest.raises(ConfigError, match="expected PATH OPERATOR NUMBER") as caught:
        parse_condition(text)
    assert caught.value.exit_code == 2


KEYS = st.from_regex(r"[A-Za-z0-9_+-]{1,8}", fullmatch=True)


@given(
    keys=st.lists(KEYS, min_size=1, max_size=3),
    operator=st.sampled_from(sorted(OPERATORS)),
    limit=st.floats(allow_nan=False, allow_infinity=False),
    space=st.sampled_from(["", " ", "  "]),
)
def test_every_condition_reads_back(keys: list[str], operator: str, limit: float, space: str) -> None:
    text = f"{space}{'.'.join(keys)}{space}{operator}{space}{limit!r}{space}"
    assert parse_condition(text) == Condition(".".join(keys), operator, limit)


@given(st.text(max_size=30))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        condition = parse_condition(text)
    except ConfigError:
        return
    assert condition.operator in OPERATORS and condition.path


@pytest.mark.parametrize(
    ("operator", "below", "equal", "above"),
    [
        ("<", True, False, False),
        ("<=", True, True, False),
        (">", False, False, True),
        (">=", False, True, True),
        ("==", False, True, False),
        ("!=", True, False, True),
    ],
)
def test_operators(operator: str, below: bool, equal: bool, above: bool) -> None:
    condition = Condition("x", operator, 1.0)
    assert [condition.holds(value) for value in (0.5, 1.0, 1.5)] == [below, equal, above]


def test_numbers_are_found_below_mappings_and_lists() -> None:
    assert look_up(RESULTS, "dysl+specprune.success_rate") == 0.5
    assert look_up(RESULTS, "dysl.success_ci95.1") == 0.91


def test_an_unknown_path_lists_its_neighbours() -> None:
    with pytest.raises(ConfigError) as caught:
        look_up(RESULTS, "dysl.sucess_rate")
    assert "Did you mean 'dysl.success_rate'?" in caught.value.message
    assert "near: dysl.success_rate" in caught.value.message


@pytest.mark.parametrize("path", ["dysl", "dysl.llm_ms_p50", "dysl.ok", "dysl.nan", "nothing", "dysl.success_ci95.2"])
def test_what_is_no_number_cannot_be_compared(path: str) -> None:
    with pytest.raises(ConfigError, match="the result has no number"):
        look_up(RESULTS, path)


def test_all_conditions_that_hold_are_listed() -> None:
    conditions = ["dysl.success_rate < 0.9", "dysl-paper-no-pre.errors > 0", "dysl-paper-no-pre.success_rate < 0.5"]
    with pytest.raises(ThresholdNotMet) as caught:
        check_conditions(conditions, RESULTS)
    assert caught.value.exit_code == 5
    assert caught.value.message.splitlines()[1:] == [
        "  dysl.success_rate < 0.9 (found 0.88)",
        "  dysl-paper-no-pre.success_rate < 0.5 (found 0.25)",
    ]


def test_a_good_result_passes_but_a_wrong_condition_never_does() -> None:
    check_conditions(["dysl.success_rate < 0.8", "dysl-paper-no-pre.errors != 0"], RESULTS)
    check_conditions([], RESULTS)
    with pytest.raises(ConfigError):
        check_conditions(["dysl.success_rate < 0.8", "dysl.nothing < 1"], RESULTS)


def test_names_are_checked_before_the_work_begins() -> None:
    coming = {"dysl": ("success_rate", "success_ci95"), "random-skip": ()}
    check_paths(["dysl.success_rate < 0.9", "dysl.success_ci95.0 < 0.5", "random-skip.errors > 0"], coming)
    with pytest.raises(ConfigError, match=r"'dsyl' will not be measured.*Did you mean 'dysl'"):
        check_paths(["dsyl.success_rate < 0.9"], coming)
    with pytest.raises(ConfigError, match=r"no number 'dysl.sucess_rate'. Did you mean 'dysl.success_rate'"):
        check_paths(["dysl.sucess_rate < 0.9"], coming)
    with pytest.raises(ConfigError, match="no number 'dysl'"):
        check_paths(["dysl < 0.9"], coming)
    with pytest.raises(ConfigError, match="expected PATH OPERATOR NUMBER"):
        check_paths(["dysl.success_rate"], coming)


def test_what_could_not_be_measured_is_not_good_enough() -> None:
    """Nor is it a mistake of who asks: exit code 5, not 2."""
    crashed = {"dysl": {"success_rate": None, "episodes": 3}}
    with pytest.raises(ThresholdNotMet, match=r"dysl.success_rate < 0.9 \(found none\)"):
        check_conditions(["dysl.success_rate < 0.9"], crashed)
    check_conditions(["dysl.episodes < 3"], crashed)
