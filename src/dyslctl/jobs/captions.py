"""What is drawn below the pictures of a video: instruction, layers run, continuity, and how it ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dyslctl.data.optional import require
from dyslctl.policy import StepReport

WIDTH = 512
"""Pixels that a picture has at least, enlarged by a whole number."""
ROWS, ROW, MARGIN = 6, 22, 8
FONT_SIZES = range(16, 8, -1)
Colour = tuple[int, int, int]
BACKGROUND, TEXT, SOFT = (24, 26, 31), (240, 240, 240), (150, 155, 165)
RAN_BEFORE = (38, 110, 90)
RAN, TWICE, SKIPPED, CONTINUITY = (63, 209, 164), (240, 180, 76), (58, 62, 72), (111, 189, 240)
GOOD, BAD = RAN, (240, 110, 110)


@dataclass(frozen=True)
class Moment:
    """One executed action.

    Attributes:
        report: Of the inference that it is from.
        continuity: ``C`` after it (Eq. 1), ``None`` while undefined.
    """

    report: StepReport
    continuity: float | None = None


@dataclass(frozen=True)
class Caption:
    """What is known when a picture is taken.

    Attributes:
        num_layers: ``L``.
        max_steps: Actions at most.
        moments: The actions until now.
        solved: How the episode ended; ``None`` while it lasts.
    """

    method: str
    instruction: str
    num_layers: int
    max_steps: int
    moments: Sequence[Moment] = ()
    solved: bool | None = None


def drawing_tools() -> tuple[Any, Any, Any]:
    """Pillow's modules for images, drawing and fonts.

    Raises:
        EnvironmentMismatch: If it is not installed.
    """
    image, draw, font = (
        require(f"PIL.{name}", "making videos", "video") for name in ("Image", "ImageDraw", "ImageFont")
    )
    return image, draw, font


def captioned(frame: np.ndarray, caption: Caption) -> np.ndarray:
    """``frame`` ``[height, width, 3]`` uint8, enlarged, with ``caption`` below; height and width become even."""
    image, draw, font = drawing_tools()
    factor = math.ceil(WIDTH / frame.shape[1])
    picture = frame.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = picture.shape[:2]
    canvas = image.new("RGB", (width + width % 2, height + height % 2 + ROWS * ROW + 2 * MARGIN), BACKGROUND)
    canvas.paste(image.fromarray(picture), (0, 0))
    fonts = [font.load_default(size) for size in FONT_SIZES]
    _Band(draw.Draw(canvas), fonts, height + MARGIN, width - 2 * MARGIN).write(caption)
    return np.asarray(canvas)


class _Band:
    """The rows below the picture."""

    def __init__(self, draw: Any, fonts: Sequence[Any], top: int, width: int) -> None:
        self._draw, self._fonts, self._top, self._width = draw, fonts, top, width

    def write(self, caption: Caption) -> None:
        """All rows."""
        self._text(0, caption.instruction, TEXT)
        self._text(1, *_progress(caption))
        self._cells(2, caption)
        self._curves(3, caption)
        if caption.moments:
            now = caption.moments[-1]
            self._text(5, f"layers run {now.report.layers_run} of {caption.num_layers}", RAN)
            if now.continuity is not None:
                self._text(5, f"continuity {now.continuity:.3f}", CONTINUITY, indent=self._width // 2)

    def _text(self, row: int, text: str, colour: Colour, indent: int = 0) -> None:
        """In the largest letters that fit."""
        fits = (font for font in self._fonts if font.getlength(text) <= self._width - indent)
        font = next(fits, self._fonts[-1])
        place = MARGIN + indent, self._top + row * ROW + ROW // 2
        self._draw.text(place, text, fill=colour, font=font, anchor="lm")

    def _cells(self, row: int, caption: Caption) -> None:
        """One cell a layer: skipped, run, or run twice."""
        top, pitch = self._top + row * ROW, self._width / caption.num_layers
        layers = caption.moments[-1].report.layers if caption.moments else ()
        for layer in range(caption.num_layers):
            left, right = MARGIN + layer * pitch, MARGIN + (layer + 1) * pitch
            colour = (SKIPPED, RAN, TWICE)[min(layers.count(layer), 2)]
            self._draw.rectangle((left, top + 4, max(right - 2, left), top + ROW - 5), fill=colour)

    def _curves(self, row: int, caption: Caption) -> None:
        """Over the time there is: layers run, up to twice all of them, and continuity, from the lowest so far to 0."""
        top, bottom = self._top + row * ROW + 2, self._top + (row + 2) * ROW - 3
        pitch = self._width / caption.max_steps
        across = [MARGIN + pitch * step for step in range(len(caption.moments))]
        self._draw.rectangle((MARGIN, top, MARGIN + self._width, bottom), outline=SKIPPED)
        for x, moment in zip(across, caption.moments, strict=True):
            share = moment.report.layers_run / (2 * caption.num_layers)
            self._draw.rectangle((x, bottom - share * (bottom - top), x + pitch, bottom), fill=RAN_BEFORE)
        known = [(x, m.continuity) for x, m in zip(across, caption.moments, strict=True) if m.continuity is not None]
        lowest = min((value for _, value in known), default=0.0) or -1.0
        self._draw.line([(x, top + value / lowest * (bottom - top)) for x, value in known], fill=CONTINUITY, width=2)


def _progress(caption: Caption) -> tuple[str, Colour]:
    steps = len(caption.moments)
    if caption.solved is not None:
        verdict = "solved" if caption.solved else "failed"
        return f"{caption.method}   {verdict} after {steps} steps", GOOD if caption.solved else BAD
    parts = [caption.method, f"step {steps} of {caption.max_steps}"]
    if caption.moments:
        report = caption.moments[-1].report
        parts += _asked([consultation.answer for consultation in report.consulted])
        parts += ["predicted again"] if report.verified else []
    return "   ".join(parts), SOFT


def _asked(answers: Sequence[float]) -> list[str]:
    """The planner's answer, or the range of those of the controllers: there may be many."""
    if len(answers) <= 1:
        return [f"asked: {answer:.2f}" for answer in answers]
    return [f"asked {len(answers)} times: {min(answers):.2f} to {max(answers):.2f}"]
