"""Where tokens are looked at and pruned, when layers may be skipped.

Attention is asked for at static layers only, and prunings are snapped to them, so what is known and how much goes never
depends on which layers were skipped. Where no static layer follows, a pruning stays at its layer; a jump that crosses
it owes it, and pays where it lands: the adapter maps the larger set, the next layer sees the smaller one.
"""

from __future__ import annotations

from collections.abc import Sequence

from dyslctl.errors import ConfigError
from dyslctl.pruning.specprune import Depths


def snapped(depths: Depths, static: Sequence[int], *, contiguous: bool = False) -> Depths:
    """``depths`` for a model of which only the layers ``static`` are sure to run; all of them: ``depths`` itself.

    * local: the first static layers, at most as many; the static pruning is after the last of them.
    * global: for each the nearest static layer, of two the earlier. If ``contiguous`` that stands in for the layer
      itself, which counts where it runs.
    * updated: the static layers behind the local ones, up to the last pruning, but not where one prunes.
    * pruned: each at the first static layer from its own on, but behind one whose importance was learnt from; several
      may meet there. Where none follows it stays; where importance is never learnt there is no pruning.

    Args:
        depths: Of the same model when every layer runs.
        static: Ascending.
        contiguous: A pass runs every layer up to the one before which it leaves, so what it found by then is sound.

    Raises:
        ConfigError: If no layer is static: the tokens would have to be chosen before anything has run.
    """
    if not static:
        raise ConfigError("expected a layer that always runs, to choose tokens by; found none")
    local = tuple(static[: len(depths.local)])
    global_ = {min(static, key=lambda layer: (abs(layer - wanted), layer)) for wanted in depths.global_}
    stand_ins = tuple(sorted(global_ - set(depths.global_))) if contiguous else ()
    global_ |= set(depths.global_) if contiguous else set()
    behind = [layer for layer in static if layer > local[-1]]
    if not behind:
        return Depths(local, tuple(sorted(global_)), (), (), stand_ins)
    learning, *landings = behind
    moved = [next((layer for layer in landings if layer >= wanted), wanted) for wanted in depths.pruned]
    pruned = tuple(sorted(layer for layer in moved if layer > learning))
    last = max(pruned, default=learning)
    updated = tuple(layer for layer in (learning, *landings) if layer < last and layer not in pruned)
    return Depths(local, tuple(sorted(global_)), pruned, updated, stand_ins)


def owed(pruned: Sequence[int], left: int, reached: int) -> int:
    """How many prunings, each after its layer of ``pruned``, a jump from before ``left`` to ``reached`` crossed."""
    return sum(left <= layer < reached for layer in pruned)
