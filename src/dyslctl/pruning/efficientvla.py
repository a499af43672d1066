"""EfficientVLA: without the least important layers, on few tokens (Yang et al., arXiv 2506.10100). No code is public.

    I_i = 1 - mean cos(h_i, h_{i+1})                                    the least important layers never run
    K_key tokens that the prompt attends to most in an early layer;
    of the rest, alpha of the budget by that attention, 1 - alpha by 1 - max cos to the key tokens

``I`` comes from the skip profile. Layers are left out by plain jumps; nothing is trained, and nothing is remembered.
The third part of that method, a cache inside a diffusion head, has nothing to act on here.

Chosen here, where its text was not at hand: ``alpha`` a half and 8 key tokens of 256 (secondary sources); the early
layer is the last of ``pruning.after_layers``, as for FastV; tokens are told apart by their hidden states there.
SpecPrune-VLA compares with 28 of 32 layers and 56 of 256 tokens: ``--set pruning.keep=0.21875``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dyslctl.engine import RUN, Jump, LayerSchedule, Step
from dyslctl.errors import ConfigError
from dyslctl.pruning.attention import AttentionRows, ask, text_tokens
from dyslctl.pruning.depth import LAYERS, count, require_layers_behind
from dyslctl.pruning.settings import PruningSettings
from dyslctl.pruning.tokens import prune, top
from dyslctl.types import LayerState

KEY_TOKENS, BY_RELEVANCE = 8, 0.5


def least_important(similarity: Sequence[float], dropped: int) -> tuple[int, ...]:
    """The layers that never run: those whose output is most like their input, of equals the first; ascending.

    Args:
        similarity: ``[L]``, mean cosine of input and output.
        dropped: Of a model of 32 layers; scaled to ``L``, half up. 0: none.
    """
    number = math.floor(dropped * len(similarity) / LAYERS + 0.5)
    return tuple(sorted(sorted(range(len(similarity)), key=lambda layer: -similarity[layer])[:number]))


def key_and_diverse(relevance: Tensor, features: Tensor, wanted: int) -> Tensor:
    """Indices of the ``wanted`` tokens of one view: the key ones, then the relevant, then those unlike the key ones.

    Args:
        relevance: ``[N]``.
        features: ``[N, H]``.
        wanted: At most ``N``.
    """
    keys = min(wanted, count(KEY_TOKENS, len(relevance)))
    chosen = top(relevance, keys + math.floor(BY_RELEVANCE * (wanted - keys)))
    unit = F.normalize(features.float(), dim=-1)
    unlike = 1 - (unit @ unit[chosen[:keys]].T).amax(1)
    unlike[chosen] = -torch.inf
    return torch.cat([chosen, top(unlike, wanted - len(chosen))])


class EfficientVLASchedule(LayerSchedule):
    """Some layers never run; the others, but for the first, on fewer tokens."""

    def __init__(self, rows: AttentionRows, settings: PruningSettings, similarity: Sequence[float]) -> None:
        """``settings``: ``keep``, ``bucket``, ``after_layers``, ``dropped_layers``.

        Raises:
            ConfigError: If no layer is left, or none to run on fewer tokens.
        """
        self._rows, self._settings = rows, settings
        self.dropped = least_important(similarity, settings.dropped_layers)
        if len(self.dropped) == len(similarity):
            raise ConfigError(
                f"pruning.dropped_layers={settings.dropped_layers} of 32 leaves none of {len(similarity)} layers to run"
            )

        if settings.keep < 1:
            require_layers_behind("efficientvla", settings.after_layers, len(similarity))

    def before(self, layer: int, state: LayerState) -> Step:
        """Score, prune where the early layers end, and jump over what never runs."""
        pruning = self._settings.keep < 1
        if layer == self._settings.after_layers - 1 and pruning:
            self._relevance = ask(self._rows, layer, state, text_tokens(state)).received()
        if layer == self._settings.after_layers:
            known = torch.cat([self._relevance[..., None], state.hidden.float()], -1) if pruning else None
            prune(state, self._settings.keep, _choose, known, self._settings.bucket)
        return Jump(layer + 1) if layer in self.dropped else RUN


def _choose(known: Tensor, wanted: int) -> Tensor:
    return key_and_diverse(known[:, 0], known[:, 1:], wanted)
