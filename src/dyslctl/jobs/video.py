"""Videos of episodes: one frame an action, with what the policy did written below, encoded while the episode runs.

Pictures are taken and encoded between inferences and in this thread, so that no latency contains any of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from dyslctl.artifacts.files import make_folder, writing
from dyslctl.data.optional import require
from dyslctl.dysl.continuity import ContinuityTracker
from dyslctl.dysl.guidance import GuidanceSettings
from dyslctl.jobs.captions import Caption, Moment, captioned, drawing_tools
from dyslctl.jobs.episodes import EpisodeRecord, episode
from dyslctl.jobs.lockstep import Coroutine
from dyslctl.policy import Policy
from dyslctl.suite import Environment, EpisodeSpec, StepResult, TaskSuite
from dyslctl.types import Observation

Which = Literal["first", "failed", "all"]
FRAMES_PER_SECOND = 20
HOLD = FRAMES_PER_SECOND
"""Frames that the end stays in view."""


@dataclass(frozen=True)
class Filming:
    """Which episodes are filmed, and where the videos go.

    Attributes:
        folder: Gets ``<method>/<task>-<index>-<solved|failed>.mp4``.
        indices: Of the episodes to film.
        only_failed: Keep no video of a solved episode.
    """

    folder: Path
    indices: frozenset[int]
    only_failed: bool = False

    @classmethod
    def of(cls, which: Which, episodes: Sequence[EpisodeSpec], folder: Path) -> Self:
        """``which`` of ``episodes``; ``first`` is that of each task.

        Raises:
            EnvironmentMismatch: If PyAV or Pillow is not installed.
        """
        drawing_tools()
        _codec()
        first = {spec.task: spec.index for spec in reversed(episodes)}
        indices = first.values() if which == "first" else [spec.index for spec in episodes]
        return cls(folder, frozenset(indices), which == "failed")

    def wants(self, spec: EpisodeSpec) -> bool:
        """Is this episode to be filmed?"""
        return spec.index in self.indices

    def keeps(self, record: EpisodeRecord) -> bool:
        """Is its video to be kept? One that crashed is no episode."""
        return record.done and not (self.only_failed and record.success)

    def sweep(self) -> None:
        """Remove what processes that died left of their videos; none may be filming any more."""
        for leftover in self.folder.glob(f"*/{_unfinished('*')}"):
            leftover.unlink(missing_ok=True)

    def path(self, spec: EpisodeSpec, method: str, ending: str) -> Path:
        """Where the video of an episode goes; tasks may have any name."""
        return self.folder / method / f"{re.sub(r'[^A-Za-z0-9_.+-]+', '_', spec.task)}-{spec.index}-{ending}.mp4"


def filmed_episode(
    filming: Filming,
    environment: Environment,
    policy: Policy,
    method: str,
    spec: EpisodeSpec,
    suite: TaskSuite,
    *,
    alone: bool,
) -> Coroutine[EpisodeRecord]:
    """:func:`~dyslctl.jobs.episodes.episode`, filmed."""
    with Film(filming.path(spec, method, "unknown")) as film:
        camera = _Camera(environment, policy, method, suite.max_steps, film)
        record = yield from episode(camera, policy, method, spec, suite, alone=alone)
        if filming.keeps(record):
            camera.conclude(solved=record.success)
            film.keep(filming.path(spec, method, "solved" if record.success else "failed"))
    return record


class _Camera(Environment):
    """An environment that films what happens in it."""

    def __init__(self, environment: Environment, policy: Policy, method: str, max_steps: int, film: Film) -> None:
        self._environment, self._policy, self._film = environment, policy, film
        self._caption = Caption(method, "", policy.backbone.spec.num_layers, max_steps)
        self._continuity = ContinuityTracker(GuidanceSettings.k)

    def reset(self, spec: EpisodeSpec) -> Observation:
        """Begin with a picture of the initial state."""
        observation = self._environment.reset(spec)
        self._caption = replace(self._caption, instruction=observation.instruction)
        self._shoot()
        return observation

    def step(self, action: np.ndarray) -> StepResult:
        """One action is one picture."""
        result = self._environment.step(action)
        self._caption = replace(self._caption, moments=[*self._caption.moments, self._moment()])
        self._shoot()
        if result.new_instruction:
            self._caption = replace(self._caption, instruction=result.observation.instruction)
            self._continuity.reset()
        return result

    def _moment(self) -> Moment:
        """The report of the inference that the action is from, and Eq. 1, which some methods do not ask for."""
        report, before = self._policy.last, self._caption.moments
        if report.predicted is None:
            return Moment(report)
        number = sum(1 for _ in takewhile(lambda moment: moment.report is report, reversed(before)))
        action = report.predicted.normalized[number : number + 1]
        return Moment(report, self._continuity.commit(action).values[0])

    def render(self) -> np.ndarray:
        """As the environment."""
        return self._environment.render()

    def conclude(self, *, solved: bool) -> None:
        """Say how it ended."""
        self._caption = replace(self._caption, solved=solved)
        self._shoot(HOLD)

    def _shoot(self, times: int = 1) -> None:
        frame = captioned(self.render(), self._caption)
        for _ in range(times):
            self._film.add(frame)


class Film:
    """A video that is being written, beside ``path``; deleted again unless it is kept.

    Raises:
        EnvironmentMismatch: From any method, if it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._temporary = path.with_name(_unfinished(path.name))
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> Self:
        make_folder(self._temporary.parent)
        return self

    def add(self, frame: np.ndarray) -> None:
        """Append ``frame``, ``[height, width, 3]`` uint8, both even, all of one size."""
        av = require("av", "making videos", "video")
        with writing(self._temporary):
            if self._container is None:
                self._container, self._stream = _open(self._temporary, frame.shape[1], frame.shape[0])
            self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

    def keep(self, path: Path) -> None:
        """End it, under its name."""
        with writing(path):
            self._container.mux(self._stream.encode())
            self._container.close()
            self._container = None
            self._temporary.replace(path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._container is not None:
            with suppress(OSError):  # Of a full disk, when it writes what nobody wants.
                self._container.close()
        self._temporary.unlink(missing_ok=True)


def _unfinished(name: str) -> str:
    return f".{name}.tmp"


def _open(path: Path, width: int, height: int) -> tuple[Any, Any]:
    av = require("av", "making videos", "video")
    container = av.open(str(path), "w", format="mp4")
    stream = container.add_stream(_codec(), rate=Fraction(FRAMES_PER_SECOND))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    # Threads would go on encoding during the next inference, which is timed.
    stream.codec_context.thread_count = 1
    if stream.codec_context.name == "libx264":
        stream.options = {"preset": "veryfast", "crf": "23"}
    return container, stream


def _codec() -> str:
    """H.264, or what every build of FFmpeg has."""
    av = require("av", "making videos", "video")
    return "libx264" if "libx264" in av.codecs_available else "mpeg4"
