"""One pass on fewer layers and fewer tokens: a schedule that skips, with SpecPrune-VLA's beside it."""

from __future__ import annotations

from dyslctl.engine import RUN, LayerSchedule, Run, Step
from dyslctl.joint.depths import owed
from dyslctl.pruning.specprune import PassMemory, SpecPruneSchedule
from dyslctl.types import LayerState


class JointSchedule(LayerSchedule):
    """What ``skip`` leaves runs on what ``tokens`` leave.

    Attributes:
        skip: Decides about layers.
        tokens: Decides about tokens; its depths are snapped to the layers that ``skip`` always runs.
        skipping: Off, every layer of the next pass runs.
        at_jump: What ``tokens`` had gathered where the last pass first jumped; ``None`` if it did not.
        share_run: Of the layers up to the last one that named the global set, how many ran in the last pass.
    """

    def __init__(self, skip: LayerSchedule, tokens: SpecPruneSchedule) -> None:
        self.skip, self.tokens = skip, tokens
        self.skipping = True
        self.at_jump: PassMemory | None = None
        self.share_run = 0.0
        self._next: int | None = None

    def start(self, state: LayerState) -> None:
        """For both."""
        self.skip.start(state)
        self.tokens.start(state)
        self.at_jump, self._next, self._ran = None, None, 0

    def before(self, layer: int, state: LayerState) -> Step:
        """Pay what a jump owes, look, then let ``skip`` decide about what is left."""
        for _ in range(owed(self.tokens.depths.pruned, layer if self._next is None else self._next, layer)):
            self.tokens.prune_deeper(state)
        self._next = layer
        listening = self.tokens.before(layer, state)
        step = self.skip.before(layer, state) if self.skipping else RUN
        if isinstance(step, Run):
            return listening
        if self.at_jump is None:
            self.at_jump = self.tokens.snapshot()
        return step

    def after(self, layer: int, state: LayerState) -> None:
        """For both."""
        self._next, self._ran = layer + 1, self._ran + 1
        self.tokens.after(layer, state)
        self.skip.after(layer, state)
        if layer in self.tokens.depths.global_:
            self.share_run = self._ran / (layer + 1)
