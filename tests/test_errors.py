"""Exit codes are a promise to scripts: 0 ok, 1 internal, 2 usage, 3 plugin or environment, 4 artifact, 5 threshold."""

from __future__ import annotations

import pytest

from dyslctl import errors
from dyslctl.errors import DyslctlError

EXIT_CODES = {
    "DyslctlError": 1,
    "ConfigError": 2,
    "PluginError": 3,
    "EnvironmentMismatch": 3,
    "NotInstalled": 3,
    "ArtifactError": 4,
    "ThresholdNotMet": 5,
}


def family() -> dict[str, type[DyslctlError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, DyslctlError)
    }


def test_each_class_has_its_documented_exit_code() -> None:
    assert {name: error.exit_code for name, error in family().items()} == EXIT_CODES


def test_one_except_clause_catches_the_whole_family() -> None:
    assert all(issubclass(error, DyslctlError) for error in family().values())


@pytest.mark.parametrize("name", EXIT_CODES)
def test_the_hint_stands_on_its_own_line(name: str) -> None:
    error = family()[name]("expected 8 layers, found 7, in x.yaml", hint="dyslctl profile")
    assert str(error) == "expected 8 layers, found 7, in x.yaml\n  hint: dyslctl profile"
    assert (error.message, error.hint) == ("expected 8 layers, found 7, in x.yaml", "dyslctl profile")


def test_without_a_hint_the_message_is_all() -> None:
    assert str(DyslctlError("no space left")) == "no space left"
