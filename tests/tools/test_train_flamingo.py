"""The tool that trains a RoboFlamingo from recorded demonstrations: its windows, and what a break costs."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from dyslctl_roboflamingo import RoboFlamingo

from dyslctl.artifacts.files import read_jsonl
from dyslctl.engine import FullSchedule, forward
from dyslctl.errors import ArtifactError
from dyslctl.jobs import behaviour
from dyslctl.suites.tabletop import TabletopObject
from dyslctl.types import LayerState, Observation

TOOLS = Path(__file__).parents[2] / "tools/train_mini"
SIDE = 28


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The tool's modules, which find each other as they do when it is run."""
    monkeypatch.syspath_prepend(TOOLS)
    found: dict[str, ModuleType] = {name: importlib.import_module(name) for name in ("demo_cache", "train_flamingo")}
    return SimpleNamespace(**found)


@pytest.fixture
def cache(tools: SimpleNamespace, tmp_path: Path) -> Any:
    look = tools.demo_cache.Look(SIDE, episodes=10, model="roboflamingo")
    tools.demo_cache.build(["tabletop_object"], tmp_path / "cache", look)
    return tools.demo_cache.DemoCache.open(tmp_path / "cache")


def windows(tools: SimpleNamespace, cache: Any, window: int = 12) -> Any:
    tokenizer = tools.train_flamingo.build_tokenizer(cache.texts)
    return tools.train_flamingo.Windows(cache, tokenizer, window, torch.device("cpu"))


def test_images_are_fitted_as_the_model_fits_them(tools: SimpleNamespace, cache: Any) -> None:
    suite = TabletopObject()
    specs = sorted(suite.demonstrated_episodes("train", 10), key=lambda spec: spec.task)
    first = suite.demonstrate(specs[0]).observations[0]
    fit = importlib.import_module("dyslctl_roboflamingo.images").fit
    np.testing.assert_array_equal(cache.images[0], np.stack([fit(view, SIDE) for view in first.images.values()]))


def test_a_window_lies_within_one_instruction(tools: SimpleNamespace, cache: Any) -> None:
    found = windows(tools, cache)
    starts = np.concatenate([found.learnt, found.held_out])
    assert len(found.held_out) and not cache.held_out[found.learnt].any() and cache.held_out[found.held_out].all()
    steps = found.steps(starts)
    assert steps.shape == (len(starts), 12) and (cache.last[steps] == cache.last[starts][:, None]).all()
    assert len(starts) == sum(max(0, count - 11) for count in np.unique(cache.last, return_counts=True)[1])
    assert set(found.targets[:, 6].tolist()) == {0.0, 1.0}


def test_a_cache_with_gaps_has_no_windows(tools: SimpleNamespace, tmp_path: Path) -> None:
    look = tools.demo_cache.Look(SIDE, stride=4, episodes=2, model="roboflamingo")
    tools.demo_cache.build(["tabletop_object"], tmp_path / "cache", look)
    with pytest.raises(ArtifactError, match="expected images of every step"):
        windows(tools, tools.demo_cache.DemoCache.open(tmp_path / "cache"))


def test_a_break_changes_nothing_and_the_checkpoint_acts(
    tools: SimpleNamespace, cache: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tools.train_flamingo.SIZES, "small", tools.train_flamingo._sizes(32, 2))
    monkeypatch.setattr("learner.LOG_EVERY", 2)
    fixed = ["--size", "small", "--layers", "3", "--batch", "2", "--workers", "1"]
    fixed += ["--no-compile", "--device", "cpu", "--decay-from", "2"]

    def run(out: str, *more: str) -> None:
        tools.train_flamingo.main([str(tmp_path / "cache"), "--out", str(tmp_path / out), *fixed, *more])

    run("whole", "--steps", "4")
    run("broken", "--steps", "2")
    run("broken", "--steps", "4", "--resume")
    whole, broken = (RoboFlamingo.load(tmp_path / out / "checkpoint") for out in ("whole", "broken"))
    ours, theirs = whole.model.state_dict(), broken.model.state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())
    rows = read_jsonl(tmp_path / "whole/curve.jsonl")
    assert [row["step"] for row in rows] == [2, 4]
    assert {"pose_loss", "gripper_loss", "auxiliary_loss", "held_out_pose", "held_out_gripper"} < set(rows[0])
    assert behaviour.deviation(tmp_path / "whole/checkpoint", whole) == 0
    assert (whole.spec.num_layers, whole.model.settings.head.window) == (3, 12)

    run("again", "--steps", "1", "--seed", "1", "--from", str(tmp_path / "whole/checkpoint"))
    again = RoboFlamingo.load(tmp_path / "again/checkpoint").model.state_dict()
    assert max((weight - ours[name]).abs().max() for name, weight in again.items()) < 0.05

    run("head", "--steps", "2", "--head-only", "--from", str(tmp_path / "whole/checkpoint"))
    head = RoboFlamingo.load(tmp_path / "head/checkpoint").model.state_dict()
    learnt = {name for name, weight in head.items() if not torch.equal(weight, ours[name])}
    assert learnt and all(name.startswith("head.") for name in learnt)


def test_a_head_needs_something_to_begin_with(tools: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tools.train_flamingo.main(["some.cache", "--out", "elsewhere", "--head-only"])
    assert "expected --from CHECKPOINT" in capsys.readouterr().err


def test_windows_pass_at_several_speeds(tools: SimpleNamespace, cache: Any) -> None:
    found = windows(tools, cache)
    steps = found.steps(np.array([3, 3, 3, 3]), np.array([1, 0.5, 0.25, 0])) - 3
    assert steps[0].tolist() == list(range(12)) and steps[3].tolist() == [0] * 12
    assert steps[1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert steps[2].tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_a_window_of_one_is_any_frame(tools: SimpleNamespace, cache: Any) -> None:
    """The ends of instructions, too, where no longer window begins."""
    found = windows(tools, cache, 1)
    np.testing.assert_array_equal(found.learnt, np.flatnonzero(~cache.held_out))
    assert found.steps(found.learnt[:2], np.array([1, 0.25])).tolist() == [[step] for step in found.learnt[:2]]


def test_an_instruction_begins_with_the_first_action_that_moves(tools: SimpleNamespace) -> None:
    """Two instructions, of three and of four steps; whoever waits later on waits."""
    poses = np.array([0, 0.01, 0.5, 0, -0.3, 0, 0.2], np.float32)
    actions = np.concatenate([poses[:, None].repeat(6, 1), np.array([[1, 1, -1, 1, -1, -1, 1]], np.float32).T], 1)
    recorded = SimpleNamespace(actions=actions, last=np.array([2, 2, 2, 6, 6, 6, 6]))
    begun = tools.train_flamingo.begun(recorded)
    np.testing.assert_array_equal(begun[:, 0], np.float32([0.5, 0.5, 0.5, -0.3, -0.3, 0, 0.2]))
    np.testing.assert_array_equal(begun[:, 6], [-1, -1, -1, -1, -1, -1, 1])
    np.testing.assert_array_equal(actions[:, 0], poses)  # what was recorded stays as it is


def test_weights_of_another_model_are_no_beginning(tools: SimpleNamespace) -> None:
    with pytest.raises(ArtifactError, match="found none that fits"):
        begin_from = importlib.import_module("learner").begin_from
        begin_from(torch.nn.Linear(2, 2), Path("elsewhere"), {"weight": torch.zeros(3), "other": torch.zeros(2)})


def test_training_sees_what_inference_sees(tools: SimpleNamespace, cache: Any) -> None:
    """A window at once, and the same frames step by step through the backbone: the same actions."""
    train, tokenizer = tools.train_flamingo, tools.train_flamingo.build_tokenizer(cache.texts)
    torch.manual_seed(0)
    tools.train_flamingo.SIZES["tiny"] = train._sizes(32, 2)
    model = train.RoboFlamingoModel(train.mini_settings("tiny", cache, tokenizer, 3)).eval()
    found = windows(tools, cache)
    steps = found.steps(found.learnt[:1])
    values = found.images(steps).permute(0, 1, 2, 5, 3, 4).float() / 255
    whole = train.WindowModel(model, compile_layers=False)
    backbone = RoboFlamingo(model, tokenizer, "none")
    with torch.no_grad():
        actions = whole.actions(whole.features(values, *found.words(steps))[0])[0]
        for step, expected in zip(steps[0], actions, strict=True):
            views = dict(zip(("agent", "wrist"), cache.images[step], strict=True))
            state = LayerState.of(backbone.encode([Observation(views, cache.texts[cache.instruction[step]])]))
            forward(backbone, state, FullSchedule())
            torch.testing.assert_close(backbone.predict(state)[0, 0], expected, atol=1e-5, rtol=1e-4)
