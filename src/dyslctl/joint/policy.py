"""``dysl+specprune``: any skipping method's loop, on the tokens that SpecPrune-VLA retains.

The skipping method's plan asks for passes as it always does; here each is answered on fewer tokens. Its second
prediction, if it has one, runs every layer on the fine set, chosen anew from this inference's pictures and first
layers: it resumes at the first skip if those are the tokens that the first pass had there, else where tokens are first
pruned. Either way it is bit for bit the pass that would have begun so.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from dyslctl.backbone import Backbone
from dyslctl.joint.depths import snapped
from dyslctl.joint.importance import judge
from dyslctl.joint.schedule import JointSchedule
from dyslctl.joint.skipping import Skipping
from dyslctl.policy import Plan, Policy, Predict, Request
from dyslctl.pruning.action_mode import Mode
from dyslctl.pruning.frames import Frame, frame_of
from dyslctl.pruning.settings import PruningSettings
from dyslctl.pruning.specprune import Depths, Outlook, SpecPruneSchedule
from dyslctl.pruning.specprune_policy import History, Lookout
from dyslctl.types import ActionChunk, LayerState, Observation


@dataclass(frozen=True)
class JointHistory:
    """The past of the tokens' side; the skipping method keeps its own. A value, as :class:`History`.

    Attributes:
        tokens: As ``specprune`` remembers it.
        age: For how many inferences the global set was carried.
        alarms: Whether the skipping method was alarmed, for each of the last inferences.
    """

    tokens: History = field(default_factory=History)
    age: int = 0
    alarms: tuple[bool, ...] = ()


class JointPolicy(Policy):
    """Layers by one method, tokens by SpecPrune-VLA.

    Attributes:
        history: What it knows of the episode.
    """

    schedule: JointSchedule

    def __init__(self, skipping: Skipping, settings: PruningSettings, execute_horizon: int) -> None:
        """Raises ``ConfigError`` if actions are not displacements of one end effector, or no layer is sure to run."""
        backbone = skipping.policy.backbone
        self._lookout = Lookout(settings, backbone, execute_horizon)
        depths = snapped(Depths.of(backbone.spec.num_layers), skipping.static, contiguous=skipping.contiguous)
        tokens = SpecPruneSchedule(backbone.attention_rows, settings, depths, backbone.run_layer_with_rows)
        self.backbone: Backbone = backbone
        self.schedule = JointSchedule(skipping.policy.schedule, tokens)
        self._skipping, self._settings = skipping, settings
        self.history = JointHistory()

    def reset(self, seed: int = 0) -> None:
        """Forget the past, on both sides."""
        self._skipping.policy.reset(seed)
        self.schedule.tokens.begin_episode(seed)
        self.history = JointHistory()

    def plan(self, observation: Observation) -> Plan:
        """One judgement for both sides, the passes, and what they leave to the next inference."""
        past, frame = self.history, frame_of(observation.images)
        mode, stale = self._lookout.mode(past.tokens), past.age > self._settings.max_age
        importance = judge(self._settings.agreement, mode, any(past.alarms))
        self._skipping.heed(partial(self._cautious, mode, past.alarms))
        self.schedule.skipping = not stale
        now = self._lookout.outlook(past.tokens, frame, "fine" if stale else importance.mode)
        self.schedule.tokens.outlook = now
        refreshed, chunk = yield from self._passes(observation, frame)
        self.last = self._skipping.policy.last
        found = self.schedule.tokens.found if refreshed else past.tokens.found
        alarms = (*past.alarms, self._skipping.alarmed(self.last))[-self._skipping.window :]
        tokens = self._lookout.after(past.tokens, mode, frame, chunk, found)
        self.history = JointHistory(tokens, 0 if refreshed else past.age + 1, alarms)
        return chunk

    def _cautious(self, mode: Mode, alarms: Sequence[bool], alarmed: bool) -> bool | None:
        return judge(self._settings.agreement, mode, alarmed or any(alarms)).cautious

    def _passes(self, observation: Observation, frame: Frame) -> Generator[Request, Any, tuple[bool, ActionChunk]]:
        """The skipping method's plan; beside its chunk, whether the global set may be taken from it."""
        plan, answer, again = self._skipping.policy.plan(observation), None, False
        while True:
            try:
                request = plan.send(answer)
            except StopIteration as end:
                # No past yet: whatever this pass found is better than none.
                trusted = again or self.schedule.share_run >= self._settings.refresh
                return trusted or self.history.tokens.found is None, end.value
            if isinstance(request, Predict):
                first_pass = request.schedule is self.schedule.skip
                again = not first_pass
                request = replace(request, schedule=self.schedule) if first_pass else self._verify(request, frame)
            answer = yield request

    def _verify(self, request: Predict, frame: Frame) -> Predict:
        """Every layer, from ``request.first`` or where the tokens part."""
        tokens, memory = self.schedule.tokens, self.schedule.at_jump
        if memory is None:
            raise ValueError("expected a pass that jumped before one that runs every layer")
        request = replace(request, schedule=tokens)
        wanted = self._verifying(frame) if memory.outlook is not None else None
        pruned = request.first > tokens.depths.local[-1]
        same = memory.outlook is None or (wanted is not None and wanted.mode == memory.outlook.mode)
        if same or not pruned:
            tokens.restore(memory if same else replace(memory, outlook=wanted))
            return request
        state: LayerState = tokens.restart(wanted)
        return replace(request, state=state, first=tokens.depths.local[-1] + 1)

    def _verifying(self, frame: Frame) -> Outlook | None:
        """The outlook of a second prediction; ``None``: on every token."""
        if self._settings.verify_tokens == "full":
            return None
        return self._lookout.outlook(self.history.tokens, frame, "fine")
