"""What methods that prune tokens are told. One set for all of them; each reads what concerns it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dyslctl.errors import ConfigError

Agreement = Literal["independent", "or", "and"]
VerifyTokens = Literal["fine", "full"]


@dataclass(frozen=True)
class PruningSettings:
    """Settings of token pruning, ``--set pruning.KEY=VALUE``.

    Those from ``alpha`` on are SpecPrune-VLA's. Numbers of tokens are of a view of 256: they are scaled to others.

    Attributes:
        keep: Share of each view's tokens that ``divprune``, ``fastv``, ``efficientvla`` and, after its last stage,
            ``sparsevlm`` keep.
        bucket: How many tokens of a view stay is a multiple of this, if it has so many: rounded up.
        after_layers: ``K``: ``fastv`` and ``efficientvla`` prune after so many layers.
        recycled: Share of the dropped tokens that ``sparsevlm`` merges instead of losing them.
        dropped_layers: How many layers of 32 ``efficientvla`` leaves out; scaled to models of other depths.
        static_similarity: ``vla-cache``: a patch looks as before if its cosine to the last frame's is at least this.
        static_tokens: At most so many of those, the most similar.
        relevant_tokens: Of those not the ones that the prompt attended to most.
        alpha: What the five numbers of tokens are multiplied by (section 7.2).
        global_tokens: ``K_global``, of those that the previous inference found important.
        local_coarse, local_fine: ``K_local``, of each of the first two layers, by mode.
        dynamic_coarse, dynamic_fine: ``K_dynamic``, of those whose pixels changed, by mode.
        similarity: ``tau``: a patch has changed if its cosine to the one of the reference frame is below.
        fine_translation, fine_rotation: Speeds below which an action is fine-grained, in the model's normalised space.
        layer_share: ``gamma``, of a view's tokens that each later pruning keeps; 1: there is none.
        update_rate: ``beta`` of the moving average of importance (Eq. 9).
        rank_slope: ``k`` of the rank weights (Eq. 6), for ranks from 0 to 1; the paper leaves it open.
        agreement: With layer skipping (``dysl+specprune``): whether tokens and layers each go by their own judgement of
            what is important, or both by both.
        refresh: There, a pass names the global set only if it ran at least this share of the layers before.
        max_age: There, so many inferences in a row may go without a new global set, and one more: the next runs every
            layer, in fine mode.
        verify_tokens: There, what a second prediction runs on: the fine set, or every token.

    Raises:
        ConfigError: If a value is out of its range.
    """

    keep: float = 0.5
    bucket: int = 1
    after_layers: int = 2
    recycled: float = 0.3
    dropped_layers: int = 4
    static_similarity: float = 0.996
    static_tokens: int = 150
    relevant_tokens: int = 100
    alpha: float = 0.8
    global_tokens: int = 30
    local_coarse: int = 24
    local_fine: int = 40
    dynamic_coarse: int = 20
    dynamic_fine: int = 10
    similarity: float = 0.95
    fine_translation: float = 0.5
    fine_rotation: float = 0.2
    layer_share: float = 0.9
    update_rate: float = 0.2
    rank_slope: float = 5.0
    agreement: Agreement = "independent"
    refresh: float = 0.5
    max_age: int = 4
    verify_tokens: VerifyTokens = "fine"

    def __post_init__(self) -> None:
        for name in ("keep", "layer_share", "update_rate"):
            self._require(name, 0 < getattr(self, name) <= 1, "above 0 and at most 1")
        for name in ("alpha", "fine_translation", "fine_rotation", "rank_slope"):
            self._require(name, 0 < getattr(self, name) < float("inf"), "above 0")
        counts = ("global_tokens", "local_coarse", "local_fine", "dynamic_coarse", "dynamic_fine")
        for name in ("bucket", "after_layers", "max_age", "static_tokens", "relevant_tokens", *counts):
            self._require(name, getattr(self, name) >= 1, "of at least 1")
        for name in ("recycled", "refresh"):
            self._require(name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        self._require("dropped_layers", self.dropped_layers >= 0, "of at least 0")
        for name in ("similarity", "static_similarity"):
            self._require(name, -1 <= getattr(self, name) <= 1, "from -1 to 1")
        for name, known in (("agreement", get_args(Agreement)), ("verify_tokens", get_args(VerifyTokens))):
            if getattr(self, name) not in known:
                raise ConfigError(f"pruning.{name}: expected one of {known}, found '{getattr(self, name)}'")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"pruning.{name}: expected a value {expected}, found {getattr(self, name):g}")


PRUNING = PruningSettings()
"""Unless told otherwise."""
