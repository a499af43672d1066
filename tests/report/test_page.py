"""A page has a section for every result that a run may hold."""

from __future__ import annotations

from dyslctl.artifacts.run_dir import RESULTS
from dyslctl.report.page import TEXTS, TITLES
from dyslctl.report.studies import STUDIES


def test_every_result_has_a_title_and_a_text() -> None:
    assert set(TITLES) == set(TEXTS) == set(RESULTS)


def test_studies_come_in_the_order_of_the_figures() -> None:
    assert [name for name in RESULTS if name in STUDIES] == list(STUDIES)
