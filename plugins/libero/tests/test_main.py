"""``python -m dyslctl_libero`` told something wrong; what it does right needs the simulator: ``test_real.py``."""

from __future__ import annotations

import pytest
from dyslctl_libero.__main__ import app
from typer.testing import CliRunner


@pytest.mark.parametrize("command", ["expert", "render"])
def test_an_unknown_suite(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--suite", "libero_objects"])
    assert result.exit_code == 2
    assert "--suite: expected one of libero_spatial, libero_object, " in result.stderr
    assert "found 'libero_objects'" in result.stderr


@pytest.mark.parametrize("option", ["--workers", "--episodes"])
def test_the_expert_needs_at_least_one(option: str) -> None:
    assert CliRunner().invoke(app, ["expert", option, "0"]).exit_code == 2


def test_the_expert_is_not_pushed_more_often_than_not() -> None:
    result = CliRunner().invoke(app, ["expert", "--disturb", "0.6"])
    assert result.exit_code == 2 and "--disturb: expected a share of the steps up to 0.5" in result.stderr
