"""What methods that prune tokens are told. One set for all of them; each reads what concerns it."""

from __future__ import annotations

from dataclasses import dataclass

from dyslctl.errors import ConfigError


@dataclass(frozen=True)
class PruningSettings:
    """Settings of token pruning, ``--set pruning.KEY=VALUE``.

    Attributes:
        keep: Share of each view's tokens that ``divprune`` and ``fastv`` keep.
        bucket: How many tokens of a view stay is a multiple of this, if it has so many: rounded up.
        fastv_layer: ``K``: ``fastv`` prunes after so many layers.

    Raises:
        ConfigError: If a value is out of its range.
    """

    keep: float = 0.5
    bucket: int = 1
    fastv_layer: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ConfigError(f"expected a share of visual tokens above 0 and at most 1, found {self.keep:g}")
        if min(self.bucket, self.fastv_layer) < 1:
            raise ConfigError(f"expected pruning.bucket and pruning.fastv_layer of at least 1, found {self}")


PRUNING = PruningSettings()
"""Unless told otherwise."""
