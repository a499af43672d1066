"""The agent loop of SpecPrune-VLA: what pictures and actions say before a pass, and what is remembered after it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dyslctl.backbone import Backbone
from dyslctl.policy import Plan, SchedulePolicy
from dyslctl.pruning.action_mode import Mode, Velocity, check_action, next_mode, velocity
from dyslctl.pruning.frames import Frame, FrameMemory, changed, frame_of, similarity
from dyslctl.pruning.settings import PruningSettings
from dyslctl.pruning.specprune import Budgets, Depths, Found, Outlook, SpecPruneSchedule
from dyslctl.types import ActionChunk, Observation


@dataclass(frozen=True)
class History:
    """A policy's past. A value: whoever wants to predict once more from the same past keeps it and puts it back.

    Attributes:
        mode: Of the last inference.
        last: How fast its last executed action was.
        frames: What it and those before it saw.
        found: What it found.
    """

    mode: Mode = "coarse"
    last: Velocity | None = None
    frames: FrameMemory = field(default_factory=FrameMemory)
    found: Found | None = None


class Lookout:
    """Mode and outlook of the next pass, from an episode's history."""

    def __init__(self, settings: PruningSettings, backbone: Backbone, execute_horizon: int) -> None:
        """Raises ``ConfigError`` if actions are not displacements of one end effector."""
        check_action(backbone.spec.action_dim)
        self._settings, self._gripper_dim = settings, backbone.spec.gripper_dim
        self._execute_horizon = execute_horizon

    def mode(self, past: History) -> Mode:
        """As the last action tells it."""
        return past.mode if past.last is None else next_mode(past.mode, past.last, self._settings)

    def outlook(self, past: History, frame: Frame, mode: Mode) -> Outlook | None:
        """``None`` without a past, or if the cameras have changed."""
        if past.found is None or past.last is None:
            return None
        then = past.frames.reference(past.last.translation, self._execute_horizon)
        if then is None or [view.shape for view in then] != [view.shape for view in frame]:
            return None
        layout = past.found.layout
        seen = zip(frame[: len(layout)], then, layout, strict=False)  # suites may show more views than a model reads
        return Outlook(past.found, mode, tuple(self._changed(*view, mode) for view in seen))

    def after(self, past: History, mode: Mode, frame: Frame, chunk: ActionChunk, found: Found | None) -> History:
        """The history once ``chunk``, the actions that are executed, follows from ``frame``."""
        frames = past.frames.after(frame, self._execute_horizon)
        return History(mode, velocity(chunk.normalized[-1], self._gripper_dim), frames, found)

    def _changed(self, now: np.ndarray, then: np.ndarray, positions: tuple[int, ...], mode: Mode) -> np.ndarray:
        tokens = len(positions)
        wanted = Budgets.of(self._settings, mode, tokens).dynamic
        return changed(similarity(now, then, tokens), self._settings.similarity, wanted)


class SpecPrunePolicy(SchedulePolicy):
    """Tokens pruned by the previous inference, the pictures, and the first two layers.

    Attributes:
        history: What it knows of the episode.
    """

    schedule: SpecPruneSchedule

    def __init__(self, backbone: Backbone, settings: PruningSettings, execute_horizon: int) -> None:
        """Raises ``ConfigError`` if actions are not displacements of one end effector."""
        self._lookout = Lookout(settings, backbone, execute_horizon)
        depths = Depths.of(backbone.spec.num_layers)
        schedule = SpecPruneSchedule(backbone.attention_rows, settings, depths, backbone.run_layer_with_rows)
        super().__init__(backbone, schedule, execute_horizon)
        self.history = History()

    def reset(self, seed: int = 0) -> None:
        """Forget the past, in the head too."""
        super().reset(seed)
        self.history = History()

    def plan(self, observation: Observation) -> Plan:
        """As any schedule, with a look at the pictures before and what was found after."""
        frame, mode = frame_of(observation.images), self._lookout.mode(self.history)
        self.schedule.outlook = self._lookout.outlook(self.history, frame, mode)
        chunk = yield from super().plan(observation)
        self.history = self._lookout.after(self.history, mode, frame, chunk, self.schedule.found)
        return chunk
