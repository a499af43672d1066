from __future__ import annotations

from typing import Any

import pytest

from dyslctl.errors import ConfigError
from dyslctl.pruning.settings import PruningSettings


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.01, float("nan")])
def test_a_share_is_above_0_and_at_most_1(keep: float) -> None:
    with pytest.raises(ConfigError, match=r"pruning\.keep: expected a value above 0 and at most 1"):
        PruningSettings(keep=keep)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("bucket", 0, "of at least 1"),
        ("after_layers", 0, "of at least 1"),
        ("local_fine", 0, "of at least 1"),
        ("alpha", 0.0, "above 0"),
        ("alpha", float("inf"), "above 0"),
        ("fine_rotation", -0.1, "above 0"),
        ("recycled", 1.1, "from 0 to 1"),
        ("dropped_layers", -1, "of at least 0"),
        ("static_tokens", 0, "of at least 1"),
        ("static_similarity", 1.1, "from -1 to 1"),
        ("similarity", 1.1, "from -1 to 1"),
        ("layer_share", 0.0, "above 0 and at most 1"),
        ("update_rate", 1.5, "above 0 and at most 1"),
        ("refresh", 1.1, "from 0 to 1"),
        ("max_age", 0, "of at least 1"),
    ],
)
def test_each_value_has_its_range(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"pruning\.{name}: expected a value {expected}, found {value:g}"):
        PruningSettings(**{name: value})


@pytest.mark.parametrize(("name", "known"), [("agreement", "independent"), ("verify_tokens", "full")])
def test_a_choice_is_one_of_those_known(name: str, known: str) -> None:
    assert PruningSettings(**{name: known})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"pruning\.{name}: expected one of .*'{known}'.*, found 'any'"):
        PruningSettings(**{name: "any"})  # type: ignore[arg-type]
