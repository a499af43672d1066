from __future__ import annotations

from typing import Any

import pytest

from dyslctl.errors import ConfigError
from dyslctl.pruning.settings import PruningSettings


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.01, float("nan")])
def test_a_share_is_above_0_and_at_most_1(keep: float) -> None:
    with pytest.raises(ConfigError, match="expected a share of visual tokens above 0 and at most 1"):
        PruningSettings(keep=keep)


@pytest.mark.parametrize("settings", [{"bucket": 0}, {"fastv_layer": 0}])
def test_counts_are_at_least_1(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        PruningSettings(**settings)
