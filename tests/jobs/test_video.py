from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from dyslctl.dysl.continuity import ContinuityTracker
from dyslctl.engine import RUN, Jump, LayerSchedule, Step
from dyslctl.errors import EnvironmentMismatch
from dyslctl.jobs.captions import (
    BACKGROUND,
    BAD,
    CONTINUITY,
    RAN,
    RAN_BEFORE,
    SKIPPED,
    TWICE,
    Caption,
    Moment,
    captioned,
)
from dyslctl.jobs.rollout import evaluate, videos
from dyslctl.jobs.summary import EvaluationResult
from dyslctl.jobs.video import HOLD, Film
from dyslctl.policy import Policy, SchedulePolicy, StepReport, full_policy
from dyslctl.suite import Environment, EpisodeSpec, StepResult
from dyslctl.types import ActionChunk, LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach

WIDTH, HEIGHT = 512, 512 + 6 * 22 + 2 * 8
"""Of a video of 8 x 8 pictures: 64 times as large, and six rows with margins."""


def frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


class Skip(LayerSchedule):
    """Three layers: 0, 6 and 7."""

    def before(self, layer: int, state: LayerState) -> Step:
        return Jump(6) if layer == 1 else RUN


@pytest.fixture
def film(tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach], tmp_path: Path) -> Callable[..., Any]:
    """Four episodes of two methods on the tiny suite, of which ``solvable`` can be solved."""
    backbone = tiny_backbone()

    class Suite(tiny_suite):  # type: ignore[valid-type, misc]
        solvable = frozenset[int]()

        def __init__(self) -> None:
            super().__init__()
            self.max_steps = 5

        def make(self) -> Environment:
            return World(super().make(), self.solvable)

    def play(solvable: set[int], **options: Any) -> tuple[Path, EvaluationResult]:
        Suite.solvable = frozenset(solvable)
        policies: Mapping[str, Callable[[], Policy]] = {
            "full": lambda: full_policy(backbone, 2),
            "three": lambda: SchedulePolicy(backbone, Skip(), 2),
        }
        suite, out = Suite(), tmp_path / "eval"
        return out, evaluate(suite, policies, suite.episodes("test", 4), out, **options)

    return play


class World(Environment):
    """Solves an episode by itself with its third action, if it is among the ``solvable``."""

    def __init__(self, world: Environment, solvable: frozenset[int]) -> None:
        self.world, self.solvable = world, solvable

    def reset(self, spec: EpisodeSpec) -> Any:
        self.spec, self.steps = spec, 0
        return self.world.reset(spec)

    def step(self, action: np.ndarray) -> StepResult:
        self.steps += 1
        solved = self.steps == 3 and self.spec.index in self.solvable
        return StepResult(self.world.step(action).observation, solved or self.steps == 5, int(solved))

    def render(self) -> np.ndarray:
        return self.world.render()


def names(out: Path) -> list[str]:
    return [path.relative_to(out / "videos").as_posix() for path in videos(out)]


@pytest.mark.parametrize("batch", [1, 3])
def test_all_episodes_frame_by_frame(film: Callable[..., Any], batch: int) -> None:
    """A frame of the initial state, one of each action, and the end held: solved after 3 actions, failed after 5."""
    out, result = film({1, 2}, video="all", batch=batch)
    assert names(out) == [
        f"{method}/{name}.mp4"
        for method in ("full", "three")
        for name in ("reach_blue-1-solved", "reach_blue-3-failed", "reach_red-0-failed", "reach_red-2-solved")
    ]
    assert len(frames(out / "videos/full/reach_blue-1-solved.mp4")) == 1 + 3 + HOLD
    assert len(frames(out / "videos/three/reach_red-0-failed.mp4")) == 1 + 5 + HOLD
    assert {frame.shape for frame in frames(videos(out)[0])} == {(HEIGHT, WIDTH, 3)}
    assert list((out / "videos").rglob("*.tmp")) == []
    assert result.methods["full"].successes == 2


def test_failed_keeps_only_what_failed(film: Callable[..., Any]) -> None:
    out, _ = film({1, 2}, video="failed")
    assert names(out) == [
        f"{method}/{name}-failed.mp4" for method in ("full", "three") for name in ("reach_blue-3", "reach_red-0")
    ]


def test_first_is_the_first_of_each_task(film: Callable[..., Any]) -> None:
    out, _ = film({0, 1, 2, 3}, video="first")
    assert Counter(Path(name).name for name in names(out)) == {
        "reach_red-0-solved.mp4": 2,
        "reach_blue-1-solved.mp4": 2,
    }


def test_filming_changes_no_result(film: Callable[..., Any]) -> None:
    _, filmed = film({1, 2}, video="all")
    out, plain = film({1, 2})
    assert names(out) == []  # An evaluation that starts anew leaves no videos of the one before.

    def untimed(result: EvaluationResult) -> list[dict[str, Any]]:
        return [{k: v for k, v in record.as_dict().items() if not k.endswith("_ms")} for record in result.records]

    assert untimed(filmed) == untimed(plain)


def test_resuming_keeps_the_videos(film: Callable[..., Any]) -> None:
    out, _ = film({0}, video="first")
    assert len(names(film({0}, video="all", resume=True)[0])) == 4 == len(names(out))


def near(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
    """How many of ``pixels`` are of ``colour``, up to what compression does to it."""
    return int((np.abs(pixels.astype(int) - colour).max(-1) < 40).sum())


def test_the_caption_shows_the_layers_that_ran(film: Callable[..., Any]) -> None:
    """After decoding: all 8 cells are lit for the full model, 3 of 8 for the other, none before the first inference."""
    out, _ = film({0}, video="first")
    full, three = (frames(out / f"videos/{method}/reach_red-0-solved.mp4") for method in ("full", "three"))
    assert lit(full[0]) == [] and lit(full[2]) == [0, 1, 2, 3, 4, 5, 6, 7] and lit(three[2]) == [0, 6, 7]


def lit(frame: np.ndarray) -> list[int]:
    """The layers whose cells, each 62 pixels wide in the third row, are lit in the middle."""
    middles = frame[512 + 8 + 2 * 22 + 11, 8 + 31 :: 62][:8]
    return [layer for layer, pixel in enumerate(middles) if near(pixel[None], RAN)]


def rows(image: np.ndarray, first: int, count: int = 1) -> np.ndarray:
    """Of the band below a picture 512 pixels high."""
    return image[512 + 8 + first * 22 : 512 + 8 + (first + count) * 22]


def test_a_layer_that_ran_twice_has_a_colour_of_its_own() -> None:
    moment = Moment(StepReport((0, 1, 1, 3), verified=True))
    image = captioned(np.zeros((8, 8, 3), np.uint8), Caption("dysl", "x", 4, 50, [moment]))
    middles = rows(image, 2)[11, 8 + 62 :: 124][:4]
    assert [tuple(pixel) for pixel in middles] == [RAN, TWICE, SKIPPED, RAN]


def test_the_picture_stays_as_it_is_and_the_text_changes() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (512, 513, 3), np.uint8)
    before = captioned(frame, Caption("dysl", "reach red", 4, 50))
    assert before.shape == (512 + 6 * 22 + 16, 514, 3)
    np.testing.assert_array_equal(before[:512, :513], frame)
    moments = [Moment(StepReport((0, 3)), -0.25)]
    after = captioned(frame, Caption("dysl", "reach red", 4, 50, moments))
    np.testing.assert_array_equal(after[:512, :513], frame)
    assert near(rows(before, 5), BACKGROUND) == 22 * 514
    assert near(rows(after, 5)[:, :250], RAN) > 50 and near(rows(after, 5)[:, 250:], CONTINUITY) > 50
    failed = captioned(frame, Caption("dysl", "reach red", 4, 50, moments, solved=False))
    assert near(rows(failed, 1), BAD) > 50 > near(rows(after, 1), BAD)


def test_the_curves_by_hand() -> None:
    """Two of four layers, a quarter of the height; continuity falls from 0, the top, to the lowest, the bottom."""
    columns = [Moment(StepReport((0, 3)), value) for value in (0.0, -1.0, -2.0)]
    wide = rows(captioned(np.zeros((8, 8, 3), np.uint8), Caption("dysl", "x", 4, 4, columns)), 3, 2)
    blue = [np.flatnonzero([near(pixel[None], CONTINUITY) for pixel in wide[:, 8 + 124 * step]]) for step in range(3)]
    assert [round(float(found.mean())) for found in blue] == pytest.approx([2, 22, 40], abs=2)
    green = [near(wide[:, 8 + 124 * step - 10], RAN_BEFORE) for step in (1, 2)]
    assert green == pytest.approx([10, 10], abs=2)


def test_continuity_is_that_of_the_executed_actions(film: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Recomputed over all executed actions at once: chunks of two, of which the last is cut after one."""
    captions, actions = list[Caption](), list[np.ndarray]()

    def draw(frame: np.ndarray, caption: Caption) -> np.ndarray:
        captions.append(caption)
        return captioned(frame, caption)

    step = World.step

    def note(world: World, action: np.ndarray) -> StepResult:
        actions.append(action * np.array([10, 10, 1], np.float32))  # Normalised, as the tiny backbone does it.
        return step(world, action)

    monkeypatch.setattr("dyslctl.jobs.video.captioned", draw)
    monkeypatch.setattr(World, "step", note)
    film(set(), video="first", batch=1)
    seen = [moment.continuity for moment in captions[6].moments]
    expected = ContinuityTracker(5).commit(np.stack(actions[:5])).values
    assert len(seen) == 5 and seen == [None if value is None else pytest.approx(value, abs=1e-5) for value in expected]


def test_no_picture_is_taken_during_an_inference(film: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    during, pictures, act = [False], list[bool](), Policy.select_action

    def select_action(policy: Policy, observation: Observation) -> ActionChunk:
        during[0] = True
        chunk = act(policy, observation)
        during[0] = False
        return chunk

    def draw(frame: np.ndarray, caption: Caption) -> np.ndarray:
        pictures.append(during[0])
        return captioned(frame, caption)

    monkeypatch.setattr(Policy, "select_action", select_action)
    monkeypatch.setattr("dyslctl.jobs.video.captioned", draw)
    film({0}, video="first")
    assert len(pictures) == 2 * ((1 + 3 + 1) + (1 + 5 + 1)) and not any(pictures)


def test_a_long_instruction_fits() -> None:
    text = "put both the alphabet soup and the tomato sauce in the basket on the far left of the table"
    image = captioned(np.zeros((256, 256, 3), np.uint8), Caption("dysl", text, 4, 50))
    assert near(rows(image, 0)[:, :-8], BACKGROUND) < 22 * 504 and near(rows(image, 0)[:, -8:], BACKGROUND) == 22 * 8


def test_an_episode_that_crashes_leaves_no_video(tmp_path: Path) -> None:
    frame = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(RuntimeError), Film(tmp_path / "a.mp4") as film:
        for _ in range(100):
            film.add(frame)
        assert [path.name for path in tmp_path.iterdir()] == [".a.mp4.tmp"]
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["av", "PIL.ImageDraw"])
def test_without_the_extra_nothing_is_played(
    film: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(EnvironmentMismatch, match="making videos needs") as caught:
        film({0}, video="all")
    assert caught.value.hint == "pip install 'dyslctl[video]'"
    assert not (tmp_path / "eval").exists()
