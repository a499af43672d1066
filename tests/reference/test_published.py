"""The reference numbers agree with themselves, with the papers' headlines, and with what the reader says of them."""

from __future__ import annotations

import pytest

from dyslctl.reference.published import (
    Table,
    load_published,
    published_devices,
    published_latency,
    published_success,
)

CHAIN = ("task1", "task2", "task3", "task4", "task5")
NOT_PARTS = {"trainable_params", "speedup", "avg", "flops_pct", "a6000_ms", "orin_ms", "pruned_tokens", "retention_pct"}
TABLES = [table for table in load_published().tables() if {"avg", "avg_len"} & set(table.columns)]


def check_average(table: Table, row: str) -> None:
    """The average of a row is the mean (success, latency) or the sum (chain length) of its parts, within rounding."""
    cells = dict(zip(table.columns, table.rows[row], strict=True))
    if "avg_len" in cells:
        parts, printed, rounding = [cells[task] for task in CHAIN], cells["avg_len"], 0.005 + 5 * 0.0005
        expected = sum(part for part in parts if part is not None)
    else:
        parts, printed, rounding = [cells[name] for name in cells if name not in NOT_PARTS], cells["avg"], 0.05 + 0.05
        assert len(parts) == 4
        expected = sum(part for part in parts if part is not None) / 4
    assert None not in parts and printed is not None
    assert printed == pytest.approx(expected, abs=rounding + 1e-9)


@pytest.mark.parametrize(
    ("table", "row"),
    [pytest.param(table, row, id=f"{table.name}-{row}") for table in TABLES for row in table.rows],
)
def test_every_average_follows_from_its_parts_unless_flagged(table: Table, row: str) -> None:
    if row not in table.flags:
        check_average(table, row)


def test_the_check_can_fail() -> None:
    hulc = load_published().table("dysl", "calvin_D_D")
    with pytest.raises(AssertionError):
        check_average(hulc, "HULC")  # flagged: the tasks sum to 2.648, printed is 2.64


def test_flags_are_read_from_the_comments() -> None:
    tables = load_published()
    assert tables.table("dysl", "calvin_D_D").flags == {"HULC": "sum 2.648"}
    assert set(tables.table("dysl", "calvin_ABC_D").flags) == {"RoboFlamingo3B", "RoboFlamingo3B_retrained", "DeeR3B"}
    assert tables.table("dysl", "libero").flags == {}


def test_every_row_has_one_value_a_column() -> None:
    for table in load_published().tables():
        assert all(len(values) == len(table.columns) for values in table.rows.values()), table.name


def test_headline_speedups_follow_from_the_tables() -> None:
    headline = load_published().raw["dysl"]["headline"]
    table = load_published().table("dysl", "libero")
    for device, names in headline["libero_latency_vs"].items():
        ms = table.column(f"{device}_ms")
        rows = {"OpenVLA_OFT": "OpenVLA_OFT_7B", "FlexiDepth": "FlexiDepth", "DeeR": "DeeR7B"}
        for name, printed in names.items():
            slow, fast = ms[rows[name]], ms["DySL7B"]
            assert slow is not None and fast is not None
            assert slow / fast == pytest.approx(printed, abs=0.0105), (device, name)


def test_orin_rows_are_llm_only() -> None:
    rows = {row.method: row for row in published_latency("orin", "openvla-oft")}
    assert set(rows) == {"full", "dysl-paper", "deer", "random-skip", "flexidepth"}
    assert (rows["full"].llm_ms, rows["dysl-paper"].llm_ms) == (676, 345)
    assert all(row.end_to_end_ms is None for row in rows.values())
    assert rows["dysl-paper"].speedup == pytest.approx(1.959, abs=1e-3)
    assert rows["dysl-paper"].citation == "DySL-VLA, arXiv 2602.22896, Table 3, DySL7B"


def test_a800_rows_are_end_to_end_and_carry_their_flag() -> None:
    rows = {row.method: row for row in published_latency("a800", "openvla-oft")}
    assert rows["full"].end_to_end_ms == 109.0 and rows["full"].llm_ms is None
    assert rows["specprune"].flag == "mean 74.98; 109.0/75.1 = 1.45"
    assert rows["specprune"].speedup == pytest.approx(1.451, abs=1e-3)


def test_backbones_do_not_mix() -> None:
    assert {row.llm_ms for row in published_latency("rtx4090", "roboflamingo")} == {51.0, 19.3, 22.6, 27.6, 13.6}
    assert {row.end_to_end_ms for row in published_latency("rtx4090", "openvla-oft")} == {187.7, 110.2}
    assert published_latency("rtx4090", "another") == []
    assert published_latency("h200", "openvla-oft") == []


def test_success_rows_of_both_papers_by_suite() -> None:
    rows = published_success(["libero_object", "tabletop_object", "libero_10"], "openvla-oft")
    ours = {row.method: row for row in rows if "2602.22896" in row.citation}
    assert ours["full"].rates == {"libero_object": 0.984, "libero_10": 0.945}
    assert ours["flexidepth"].rates["libero_10"] == 0.103
    assert ours["pi0_FAST"].citation == "DySL-VLA, arXiv 2602.22896, Table 3, pi0_FAST"
    pruned = {row.method: row for row in rows if "2509.05614" in row.citation}
    assert pruned["fastv"].rates["libero_object"] == 0.958
    assert pruned["specprune"].flag == "FLOPs 37 in A.3; spatial 97.6 in Table 11"
    assert published_success(["tabletop_object"], "openvla-oft") == []
    assert published_success(["libero_object"], "roboflamingo") == []


def test_devices_whose_llm_is_timed() -> None:
    assert published_devices("openvla-oft") == ["orin", "a6000"]
    assert published_devices("roboflamingo") == ["rtx4090"]
    assert published_devices("another") == []
