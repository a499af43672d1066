"""Chains in worker processes: one whose simulator dies is played again from its start, and is never a failed one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import calvin_stand_in as stand_in
import pytest

from dyslctl.jobs.rollout import evaluate
from dyslctl.jobs.summary import MethodSummary

pytestmark = pytest.mark.usefixtures("installed")  # what making a suite here replaces is put back


def play(out: Path, suite: stand_in.MortalD, **how: Any) -> MethodSummary:
    return evaluate(suite, stand_in.POLICIES, suite.episodes("test", 6), out, **how).methods["full"]


def chains(out: Path) -> dict[int, dict[str, Any]]:
    """Index -> the last that was noted of it, without timings."""
    rows = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    return {row["index"]: {key: value for key, value in row.items() if not key.endswith("_ms")} for row in rows}


def test_a_crashed_simulator_is_restarted_and_its_chain_played_again(tmp_path: Path) -> None:
    """Killed in the fourth action, after the first instruction was solved; chain 3 is killed each time."""
    (tmp_path / "diary").mkdir()
    (tmp_path / "quiet").mkdir()
    mortal = stand_in.MortalD(tmp_path / "diary", {1: (4, 1), 3: (4, stand_in.ALWAYS)})
    found = play(tmp_path / "mortal", mortal, workers=2)
    whole = play(tmp_path / "whole", stand_in.MortalD(tmp_path / "quiet"))
    assert [len(mortal.begun(index)) for index in range(6)] == [1, 2, 1, 3, 1, 1]
    assert len(set(mortal.begun(1))) == 2 and os.getpid() not in mortal.begun(1)
    survived, expected = chains(tmp_path / "mortal"), chains(tmp_path / "whole")
    assert (survived[3]["status"], survived[3]["error"]) == ("error", "the worker process died of signal 9 (Killed)")
    assert {key: row for key, row in survived.items() if key != 3} == {
        key: row for key, row in expected.items() if key != 3
    }
    assert [expected[index]["score"] for index in range(6)] == [5, 5, 5, 5, 2, 5]
    assert (found.episodes, found.errors, found.successes) == (5, 1, 4)
    assert found.avg_len == pytest.approx((4 * 5 + 2) / 5) and whole.avg_len == pytest.approx((5 * 5 + 2) / 6)

    again = play(tmp_path / "mortal", stand_in.MortalD(tmp_path / "diary"), workers=2, resume=True)
    assert (again.episodes, again.errors, again.avg_len) == (6, 0, whole.avg_len)
    assert chains(tmp_path / "mortal") == expected
    assert [len(mortal.begun(index)) for index in range(6)] == [1, 2, 1, 4, 1, 1]


def test_a_chain_that_hangs_is_stopped_and_played_again(tmp_path: Path) -> None:
    """What may be stopped has a process of its own, also with one worker."""
    suite = stand_in.MortalD(tmp_path, {0: (4, 1)})
    found = evaluate(suite, stand_in.POLICIES, suite.episodes("test", 1), tmp_path / "out", episode_timeout=300.0)
    assert found.methods["full"].avg_len == 5 and len(suite.begun(0)) == 2
    assert os.getpid() not in suite.begun(0)
