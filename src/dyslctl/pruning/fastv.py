"""FastV: after ``K`` layers keep the visual tokens that the answer attends to most (Chen et al., arXiv 2403.06764).

Scores are those of the last of the first ``K`` layers, a mean over heads. Without memory and without training.

Where this differs from the public code:

* It scores by the last token of the prompt, the one whose output is the next token. Here those are the tokens whose
  outputs are the action: the last prompt token, and the placeholders of a head that answers at once.
* Dropped tokens are gone, at once. The released script masks them and computes on; its fast variant drops them too.
* Each view has its own budget; the original has one image.
"""

from __future__ import annotations

from dyslctl.backbone import Backbone
from dyslctl.engine import RUN, LayerSchedule, Step
from dyslctl.pruning.attention import AttentionRows, answering_tokens, ask
from dyslctl.pruning.depth import require_layers_behind
from dyslctl.pruning.settings import PruningSettings
from dyslctl.pruning.tokens import prune, top
from dyslctl.types import LayerState


class FastVSchedule(LayerSchedule):
    """Every layer runs, those after the first ``K`` on fewer tokens. A ``keep`` of 1 is the full model, bit for bit."""

    def __init__(self, rows: AttentionRows, settings: PruningSettings) -> None:
        """``settings``: ``keep``, ``bucket``, ``after_layers``."""
        self._rows, self._settings = rows, settings
        self._guide = settings.after_layers - 1

    def before(self, layer: int, state: LayerState) -> Step:
        """Score before the last layer that sees all tokens."""
        if layer == self._guide and self._settings.keep < 1:
            self._scores = ask(self._rows, layer, state, answering_tokens(state)).received()
        return RUN

    def after(self, layer: int, state: LayerState) -> None:
        """Prune after it."""
        if layer == self._guide:
            known = self._scores if self._settings.keep < 1 else None
            prune(state, self._settings.keep, top, known, self._settings.bucket)


def schedule(backbone: Backbone, settings: PruningSettings) -> LayerSchedule:
    """The method ``fastv``.

    Raises:
        ConfigError: If the model has no layer left to run on fewer tokens.
    """
    require_layers_behind("fastv", settings.after_layers, backbone.spec.num_layers)
    return FastVSchedule(backbone.attention_rows, settings)
