"""The agent loop of DySL-VLA, on one screen."""

from __future__ import annotations

import torch

from dyslctl.backbone import Backbone
from dyslctl.dysl.guidance import GuidanceSettings, SkipGuidance
from dyslctl.dysl.schedule import DySLSchedule
from dyslctl.dysl.skip_modules import SkipModules
from dyslctl.engine import ForwardTrace, FullSchedule, LayerSchedule, forward
from dyslctl.policy import Policy, StepReport, Stopwatch
from dyslctl.types import ActionChunk, LayerState, Observation


class DySLPolicy(Policy):
    """Dynamic-static layer skipping with prior-post guidance (section 3)."""

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
        self._backbone = backbone
        self._execute_horizon = execute_horizon
        self._post_skip = post_skip
        self.guidance = SkipGuidance(modules.partition.segments, settings, backbone.spec.gripper_dim)
        self.schedule = DySLSchedule(modules, settings, self.guidance.allow_points if pre_skip else None)

    def reset(self, seed: int = 0) -> None:
        """Forget the past: the head's memory, continuity and allow points."""
        self._backbone.reset()
        self.schedule.begin_episode(seed)
        self.guidance.reset()

    @torch.inference_mode()
    def select_action(self, observation: Observation) -> ActionChunk:
        """Predict with skipping; verify at a first fall of continuity; let the points move for the next inference."""
        watch = Stopwatch(self._backbone.device)
        with watch("encode"):
            state = LayerState.of(self._backbone.encode([observation]))
        memory = self._backbone.snapshot()
        chunk, trace = self._predict(watch, state, self.schedule)
        with watch("guidance"):
            drop = self._post_skip and self.guidance.preview(chunk.normalized).first_drop

        layers, predicted_ms = trace.layers_run, watch.total_ms
        resume = trace.resume_state if drop else None
        if resume is not None:
            self._backbone.restore(memory)
            chunk, rest = self._predict(watch, resume, FullSchedule(), trace.resume_layer or 0)
            layers = layers + rest.layers_run
        reprediction_ms = watch.total_ms - predicted_ms

        with watch("guidance"):
            verdict = self.guidance.commit(chunk.normalized)
        self.last = StepReport(
            layers=tuple(layers),
            timings_ms=watch.ms,
            jumps=tuple(trace.jumps),
            consulted=tuple(self.schedule.consulted),
            verified=resume is not None,
            reprediction_ms=reprediction_ms,
            continuity=verdict.continuity,
            delta_continuity=verdict.delta,
        )
        return chunk

    def _predict(
        self, watch: Stopwatch, state: LayerState, schedule: LayerSchedule, first: int = 0
    ) -> tuple[ActionChunk, ForwardTrace]:
        """The layers from ``first`` on, then the head: the actions that would be executed."""
        with watch("llm"):
            trace = forward(self._backbone, state, schedule, first)
        with watch("head"):
            chunk = self._backbone.decode_action(self._backbone.predict(state))[0]
        return chunk.head(self._execute_horizon), trace
