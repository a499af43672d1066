"""The tool that trains a policy from recorded demonstrations: its cache, what a step draws, what a break costs."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from dyslctl_openvla_oft import OpenVLAOFT
from dyslctl_openvla_oft.processing import views_of

from dyslctl.artifacts.files import read_jsonl
from dyslctl.data.open import open_source
from dyslctl.errors import ArtifactError
from dyslctl.jobs import behaviour
from dyslctl.jobs.demo_disturbance import Disturbance
from dyslctl.jobs.demos import DemoSettings, record
from dyslctl.suites.tabletop import TabletopObject
from dyslctl.types import ActionChunk, Observation

TOOLS = Path(__file__).parents[2] / "tools/train_mini"
SIDE = 28


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The tool's modules, which find each other as they do when it is run."""
    monkeypatch.syspath_prepend(TOOLS)
    found: dict[str, ModuleType] = {
        name: importlib.import_module(name) for name in ("demo_cache", "driver", "train_demos")
    }
    return SimpleNamespace(**found)


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demos") / "set"
    record(TabletopObject(), folder, 3, DemoSettings(disturbance=Disturbance(0.15)))
    return folder


def cached(
    tools: SimpleNamespace, demonstrations: Path, folder: Path, stride: int = 1, quality: int | None = None
) -> Any:
    tools.demo_cache.build([str(demonstrations)], folder, tools.demo_cache.Look(SIDE, stride, quality))
    return tools.demo_cache.DemoCache.open(folder)


def test_the_cache_is_what_was_recorded(tools: SimpleNamespace, demonstrations: Path, tmp_path: Path) -> None:
    cache = cached(tools, demonstrations, tmp_path / "cache")
    source, step = open_source(str(demonstrations)), 0
    for number in range(3):
        shown = source.episode(number)
        for offset, seen in enumerate(shown.observations):
            assert cache.texts[cache.instruction[step]] == seen.instruction
            np.testing.assert_array_equal(cache.proprio[step], seen.proprio)
            np.testing.assert_array_equal(cache.chunks(np.array([step]), 8)[0], shown.chunk(offset, 8))
            assert cache.held_out[step] == (number == 2)
            step += 1
        last = shown.observations[-1]
        np.testing.assert_array_equal(cache.images[step - 1], views_of(last, tuple(last.images), SIDE))
    assert (cache.episodes, len(cache.images), len(cache.frames)) == (2, step, step)


def test_a_cache_for_a_journey_is_unpacked_when_it_arrives(
    tools: SimpleNamespace, demonstrations: Path, tmp_path: Path
) -> None:
    whole = cached(tools, demonstrations, tmp_path / "whole")
    tools.demo_cache.build([str(demonstrations)], tmp_path / "packed", tools.demo_cache.Look(SIDE, 4, 95))
    size = sum(file.stat().st_size for file in (tmp_path / "packed").iterdir())
    assert size < whole.images.nbytes / 4
    packed = tools.demo_cache.DemoCache.open(tmp_path / "packed")
    starts = np.flatnonzero(np.diff(whole.last, prepend=-1))
    expected = [np.arange(first + number % 4, whole.last[first] + 1, 4) for number, first in enumerate(starts)]
    np.testing.assert_array_equal(packed.frames, np.concatenate(expected))
    np.testing.assert_array_equal(packed.actions, whole.actions)
    right, wrong = (np.abs(packed.images - whole.images[f].astype(float)) for f in (packed.frames, packed.frames[::-1]))
    assert right.mean() < wrong.mean() / 2


def test_what_is_no_cache_says_so(tools: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cache\.json") as found:
        tools.demo_cache.DemoCache.open(tmp_path)
    assert "demo_cache.py" in str(found.value.hint)


def test_caches_are_joined_one_behind_the_other(tools: SimpleNamespace, demonstrations: Path, tmp_path: Path) -> None:
    first = cached(tools, demonstrations, tmp_path / "first")
    tools.demo_cache.build(["tabletop_spatial"], tmp_path / "second", tools.demo_cache.Look(SIDE, episodes=3))
    second = tools.demo_cache.DemoCache.open(tmp_path / "second")
    tools.demo_cache.join([tmp_path / "first", tmp_path / "second"], tmp_path / "both")
    both, steps = tools.demo_cache.DemoCache.open(tmp_path / "both"), len(first.actions)
    np.testing.assert_array_equal(both.images, np.concatenate([first.images, second.images]))
    np.testing.assert_array_equal(both.actions, np.concatenate([first.actions, second.actions]))
    assert both.episodes == first.episodes + second.episodes
    for whole, part, begin in ((both.last[:steps], first.last, 0), (both.last[steps:], second.last, steps)):
        np.testing.assert_array_equal(whole, begin + part)
    for begin, part in ((0, first), (steps, second)):
        words = [both.texts[number] for number in both.instruction[begin : begin + len(part.actions)]]
        assert words == [part.texts[number] for number in part.instruction]


def test_only_caches_of_one_size_are_joined(tools: SimpleNamespace, tmp_path: Path) -> None:
    for name, size in (("first", 28), ("second", 56)):
        tools.demo_cache.build(["tabletop_spatial"], tmp_path / name, tools.demo_cache.Look(size, episodes=2))
    with pytest.raises(ArtifactError, match=r"second: expected frames .*28.* as in .*first, found .*56"):
        tools.demo_cache.join([tmp_path / "first", tmp_path / "second"], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_when_the_fingers_move_next(tools: SimpleNamespace) -> None:
    fingers = np.array([-1, -1, 1, 1, -1, 1, 1.0])
    cache = tools.demo_cache.DemoCache(
        images=np.zeros(0), frames=np.arange(7), proprio=np.zeros((7, 3)), actions=fingers[:, None],
        instruction=np.zeros(7, int), last=np.array([4, 4, 4, 4, 4, 6, 6]), held_out=np.zeros(7, bool),
        texts=[""], sources=[], episodes=2,
    )  # fmt: skip
    assert cache.next_flip().tolist() == [2, 2, 4, 4, 4, 6, 6]


def test_augmented_images_are_the_shifted_ones(tools: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.train_demos, "COLOUR", 0.0)
    images = torch.randint(0, 256, (4, SIDE, SIDE, 3), dtype=torch.uint8)
    values = tools.train_demos.augmented(images, np.random.default_rng(0))
    drawn = np.random.default_rng(0)
    down, right = (drawn.integers(-6, 7, (4, 1))[:, 0] for _ in range(2))
    for image, value, dy, dx in zip(images, values, down, right, strict=True):
        inner = slice(6, SIDE - 6)
        expected = image.roll((-int(dy), -int(dx)), (0, 1))[inner, inner].permute(2, 0, 1) / 255
        torch.testing.assert_close(value[:, inner, inner], expected)


def test_a_break_changes_nothing_and_the_checkpoint_acts(
    tools: SimpleNamespace, demonstrations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tools.train_demos.SIZES, "small", tools.train_demos._sizes(32, 64, 32, 2))
    monkeypatch.setattr("learner.LOG_EVERY", 2)
    cached(tools, demonstrations, tmp_path / "cache")

    def run(out: str, *more: str) -> None:
        options = [
            "--size",
            "small",
            "--layers",
            "3",
            "--batch",
            "4",
            "--workers",
            "1",
            "--no-compile",
            "--device",
            "cpu",
        ]
        tools.train_demos.main([str(tmp_path / "cache"), "--out", str(tmp_path / out), *options, *more])

    run("whole", "--steps", "4", "--decay-from", "2")
    run("broken", "--steps", "2", "--decay-from", "2")
    run("broken", "--steps", "4", "--decay-from", "2", "--resume", "--minutes", "0")
    assert [row["step"] for row in read_jsonl(tmp_path / "broken/curve.jsonl")] == [2]
    run("broken", "--steps", "4", "--decay-from", "2", "--resume")
    weights = [OpenVLAOFT.load(tmp_path / out / "checkpoint").model.state_dict() for out in ("whole", "broken")]
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name
    rows = read_jsonl(tmp_path / "whole/curve.jsonl")
    assert [row["step"] for row in rows] == [2, 4] and {"action_loss", "held_out_loss"} < set(rows[0])
    backbone = OpenVLAOFT.load(tmp_path / "whole/checkpoint")
    assert behaviour.deviation(tmp_path / "whole/checkpoint", backbone) == 0
    assert backbone.spec.num_layers == 3 and backbone.spec.chunk_length == 8

    run("again", "--steps", "1", "--seed", "1", "--from", str(tmp_path / "whole/checkpoint"))
    again = OpenVLAOFT.load(tmp_path / "again/checkpoint").model.state_dict()
    far = [(weight - weights[0][name]).abs().max() for name, weight in again.items() if weight.is_floating_point()]
    assert max(far) < 0.05


def test_where_a_policy_drives_the_expert_says_what_it_would_do(tools: SimpleNamespace) -> None:
    """For half of the steps in stretches of 16; two chunks of 8 each, asked for at the first of their steps."""
    suite, executed, asked = TabletopObject(), list[np.ndarray](), list[int]()

    class Idle:
        def reset(self, seed: int = 0) -> None:
            pass

        def select_action(self, observation: Observation) -> ActionChunk:
            asked.append(len(executed))
            return ActionChunk(np.zeros((8, 7), np.float32), np.zeros((8, 7), np.float32))

    def watched(action: np.ndarray, observation: Observation) -> np.ndarray:
        executed.append(drive(action, observation))
        return executed[-1]

    (spec,) = suite.demonstrated_episodes("train", 1)
    drive = tools.driver.Driver(Idle(), 8, share=0.5).of(spec)
    shown = suite.demonstrate_disturbed(spec, watched)
    driven = np.array([not np.any(action) for action in executed])
    assert 0.2 < driven.mean() < 0.8
    assert driven[asked].all() and (np.diff(asked) >= 8).all() and len(asked) == -(-driven.sum() // 8)
    for action, meant, idle in zip(executed, shown.actions, driven, strict=True):
        assert idle or np.array_equal(action, meant)


def test_a_cache_of_an_expert_needs_no_data_set(tools: SimpleNamespace, tmp_path: Path) -> None:
    look = tools.demo_cache.Look(SIDE, stride=4, episodes=6, disturb=0.15)
    tools.demo_cache.build(["tabletop_object"], tmp_path / "expert", look)
    cache = tools.demo_cache.DemoCache.open(tmp_path / "expert")
    suite, of = TabletopObject(), Disturbance(0.15).of
    specs = sorted(suite.demonstrated_episodes("train", 6), key=lambda spec: spec.task)
    shown = [suite.demonstrate_disturbed(spec, of(spec)) for spec in specs]
    solved = [episode.actions for episode in shown if episode.score == suite.max_score]
    np.testing.assert_array_equal(cache.actions, np.concatenate(solved))
    assert len(cache.frames) < len(cache.actions) / 3
