"""The agent loop of DySL-VLA, on one screen."""

from __future__ import annotations

from dyslctl.backbone import Backbone
from dyslctl.dysl.guidance import GuidanceSettings, SkipGuidance
from dyslctl.dysl.schedule import DySLSchedule
from dyslctl.dysl.skip_modules import SkipModules
from dyslctl.engine import FullSchedule
from dyslctl.policy import Encode, Plan, Policy, Predict, Prediction, StepReport
from dyslctl.types import LayerState, Observation


class DySLPolicy(Policy):
    """Dynamic-static layer skipping with prior-post guidance (section 3).

    Attributes:
        pre_skip: The skipping-allow points move, and are obeyed.
    """

    schedule: DySLSchedule

    def __init__(
        self,
        backbone: Backbone,
        modules: SkipModules,
        settings: GuidanceSettings,
        execute_horizon: int,
        *,
        pre_skip: bool = True,
        post_skip: bool = True,
    ) -> None:
        """Put a trained set of skip modules to work.

        Args:
            backbone: The frozen model.
            modules: Its adapters and controllers, on the same device and in the same dtype.
            settings: Thresholds.
            execute_horizon: Actions of a chunk that are executed before the next inference.
            pre_skip: Move the skipping-allow points; off, every controller always decides.
            post_skip: Predict again with all layers at a first fall of continuity.
        """
        self.backbone = backbone
        self._execute_horizon = execute_horizon
        self.pre_skip, self._post_skip = pre_skip, post_skip
        self.guidance = SkipGuidance(modules.partition.segments, settings, backbone.spec.gripper_dim)
        points = self.guidance.allow_points if pre_skip else None
        self.schedule = DySLSchedule(modules, settings, points, backbone.pack)

    def reset(self, seed: int = 0) -> None:
        """Forget the past: the head's memory, continuity and allow points."""
        self.backbone.reset()
        self.schedule.begin_episode(seed)
        self.guidance.reset()

    def plan(self, observation: Observation) -> Plan:
        """Predict with skipping; verify at a first fall of continuity; let the points move for the next inference."""
        state: LayerState = yield Encode(self.backbone, observation)
        memory, padding = self.backbone.snapshot(), state.padding
        prediction: Prediction = yield Predict(self.backbone, state, self.schedule)
        predicted, trace = prediction.chunk, prediction.trace
        chunk = predicted.head(self._execute_horizon)
        drop = self._post_skip and self.guidance.preview(chunk.normalized).first_drop

        layers, tokens = trace.layers_run, trace.tokens_without(padding)
        resume = trace.resume_state if drop else None
        if resume is not None:
            self.backbone.restore(memory)
            again: Prediction = yield Predict(self.backbone, resume, FullSchedule(), trace.resume_layer or 0)
            predicted, layers = again.chunk, layers + again.trace.layers_run
            tokens += again.trace.tokens_without(padding)
            chunk = predicted.head(self._execute_horizon)

        verdict = self.guidance.commit(chunk.normalized)
        self.last = StepReport(
            layers=tuple(layers),
            tokens=tuple(tokens),
            jumps=tuple(trace.jumps),
            consulted=tuple(self.schedule.consulted),
            verified=resume is not None,
            continuity=verdict.continuity,
            delta_continuity=verdict.delta,
            predicted=predicted,
        )
        return chunk
