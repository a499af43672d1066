"""SparseVLM: fewer tokens at three depths, by the words that look at the picture (Zhang et al., arXiv 2410.04417).

    raters = {t : mean_v softmax_t(H_v . H_t) > its mean over t}       before layer 0, once
    score_v = mean of A_tv over heads and raters t

After three layers the tokens with the largest scores stay. Of those that go, the better ones are recycled: clustered by
density peaks, and each cluster goes on as one token, its mean. Without memory and without training.

Where this differs from the public code:

* How many stay falls in equal ratios, to ``keep`` at the last of the three depths; the released lists (300, 200, 110 of
  576) fall about so. Recycled tokens come on top, as there. Depths are scaled to models of other sizes.
* A token's density is that of its five nearest; there of as many as there are clusters, which for one cluster is the
  token itself. Of those that go exactly the share ``recycled`` is recycled; there one token more.
* A recycled token stands where the centre of its cluster stood, and all keep their positions; there they are numbered
  anew. No noise breaks ties between equal densities: of equals the first is taken.
* Each view has its own budget and its own clusters; the original has one image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.engine import RUN, LayerSchedule, Step
from dyslctl.pruning.attention import AttentionRows, ask, text_tokens
from dyslctl.pruning.depth import depths
from dyslctl.pruning.settings import PruningSettings
from dyslctl.pruning.tokens import budget, retain, top, views
from dyslctl.types import LayerState, TokenKind

STAGES = (3, 7, 16)
"""After so many of 32 layers."""
NEIGHBOURS = 5
"""Of a token, that its density is measured by, itself counted."""
PER_CLUSTER = 10


def raters(state: LayerState) -> Tensor:
    """``[B, T]`` bool: the words that the picture is about; all words, if none stands out."""
    text, vision = text_tokens(state), state.kinds >= TokenKind.VISION
    hidden = state.hidden.float()
    similar = (hidden @ hidden.transpose(1, 2)).masked_fill(~text[:, None], -torch.inf).softmax(-1)
    told = (similar * vision[..., None]).sum(1) / vision.sum(1, keepdim=True).clamp(min=1)
    found = text & (told > told.sum(1, keepdim=True) / text.sum(1, keepdim=True).clamp(min=1))
    return torch.where(found.any(1, keepdim=True), found, text)


def clusters(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Density peaks: ``count`` centres far from any denser token, and the centre nearest to each token.

        rho_i = exp(-mean_k d_ik^2) over its nearest;  delta_i = min d_ij over denser j;  centres: largest rho delta

    Args:
        features: ``[n, H]``; ``d`` is their distance over ``sqrt(H)``.
        count: At most ``n``.

    Returns:
        Indices of the centres ``[count]``, and for each token which of them ``[n]``.
    """
    apart = torch.cdist(features, features) / math.sqrt(features.shape[-1])
    near = apart.sort(dim=1).values[:, :NEIGHBOURS]
    density = (-near.square().mean(1)).exp()
    denser = density[None] > density[:, None]
    lone = torch.where(denser, apart, apart.max()).amin(1)
    centres = top(density * lone, count)
    belongs = apart[:, centres].argmin(1)
    belongs[centres] = torch.arange(count, device=features.device)
    return centres, belongs


class SparseVLMSchedule(LayerSchedule):
    """Every layer runs, on fewer tokens in three stages. A ``keep`` of 1 is the full model, bit for bit. One sample."""

    def __init__(self, rows: AttentionRows, settings: PruningSettings, num_layers: int) -> None:
        """``settings``: ``keep``, ``bucket``, ``recycled``."""
        self._rows, self._settings = rows, settings
        stages = [layers - 1 for layers in depths(STAGES, num_layers) if layers < num_layers]
        self._shares = {layer: settings.keep ** (n / len(stages)) for n, layer in enumerate(stages, 1)}

    def start(self, state: LayerState) -> None:
        """Choose the raters, which no pruning takes away, and count each view's tokens."""
        self._sizes = [len(view) for view in views(state.kinds[0])]
        self._raters = state.positions[raters(state)]

    def before(self, layer: int, state: LayerState) -> Step:
        """Score before a layer after which tokens go."""
        if layer in self._shares and self._settings.keep < 1:
            asking = torch.isin(state.positions, self._raters)
            self._scores = ask(self._rows, layer, state, asking).received()[0]
        return RUN

    def after(self, layer: int, state: LayerState) -> None:
        """Prune, and recycle some of what goes."""
        if layer in self._shares and self._settings.keep < 1:
            kept = [
                self._stage(view, size, layer, state)
                for view, size in zip(views(state.kinds[0]), self._sizes, strict=True)
            ]
            retain(state, [state.positions[0, torch.cat(kept)]])

    def _stage(self, view: Tensor, size: int, layer: int, state: LayerState) -> Tensor:
        """Indices of one view's tokens that go on; centres become the mean of their cluster."""
        order = top(self._scores[view], len(view))
        count = budget(self._shares[layer], size, self._settings.bucket)
        dropped = view[order[count:]]
        again = dropped[: math.floor(self._settings.recycled * len(dropped))]
        if not len(again):
            return view[order[:count]]
        centres, belongs = clusters(state.hidden[0, again].float(), len(again) // PER_CLUSTER + 1)
        hidden = state.hidden.clone()
        for number, centre in enumerate(centres.tolist()):
            hidden[0, again[centre]] = state.hidden[0, again[belongs == number]].mean(0)
        state.hidden = hidden
        return torch.cat([view[order[:count]], again[centres]])


def schedule(backbone: Backbone, settings: PruningSettings) -> LayerSchedule:
    """The method ``sparsevlm``."""
    return SparseVLMSchedule(backbone.attention_rows, settings, backbone.spec.num_layers)
