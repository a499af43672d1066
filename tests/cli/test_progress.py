from __future__ import annotations

import pytest

from dyslctl.cli.progress import Lines, progress
from dyslctl.jobs.progress import NO_PROGRESS


def test_quiet_is_no_progress_at_all() -> None:
    with progress(quiet=True) as listener:
        assert listener is NO_PROGRESS


def test_a_log_gets_one_line_a_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.start(40, "episodes")
    for _ in range(40):
        lines.advance(success=0.5)
    captured = capsys.readouterr()
    assert captured.out == ""
    written = captured.err.splitlines()
    assert written[0] == "episodes: 0/40"
    assert [line.split("  ")[0] for line in written[1:]] == [f"episodes: {done}/40" for done in range(4, 44, 4)]
    assert all("success 0.5" in line for line in written[1:])


def test_a_jump_over_several_tenths_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.start(10, "steps")
    lines.advance(7)
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_nothing_to_do_does_not_divide_by_zero(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.start(0, "steps")
    lines.advance(0)
    assert capsys.readouterr().err == "steps: 0/0\n"


def test_ci_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with progress(quiet=False) as listener:
        assert isinstance(listener, Lines)
