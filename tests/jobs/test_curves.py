"""Dials tried, and points measured, with policies whose layers and skill follow from their settings."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from dyslctl.errors import ArtifactError, ConfigError, PluginError
from dyslctl.jobs import closed_loop
from dyslctl.jobs.budget import TargetMs, find_dial, find_success
from dyslctl.jobs.closed_loop import ClosedLoop, Stage
from dyslctl.jobs.curves import Splits, curves, full_model
from dyslctl.jobs.episodes import EpisodeRecord
from dyslctl.jobs.latency import Series
from dyslctl.jobs.statistics import paired_difference
from dyslctl.jobs.summary import EvaluationResult, summarize
from dyslctl.policy import Policy

if TYPE_CHECKING:
    from tests.jobs import guessing
    from tests.tiny import TinyBackbone, TinyReach


@pytest.fixture(autouse=True)
def importable_guessing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    globals()["guessing"] = importlib.import_module("guessing")
    yield


@dataclass(frozen=True)
class Backbones:
    loaded: Any = field(default_factory=lambda: SimpleNamespace(spec=SimpleNamespace(fingerprint="f")))
    dtype: str = "float32"

    def load(self) -> Any:
        return self.loaded


@dataclass(frozen=True)
class Recipe:
    """Stands for a ``PolicyRecipe``: 12 layers at dial -8, one fewer a unit; each layer less is more noise."""

    seed: int = 0
    dial: float | None = None
    target_layers: float | None = None
    backbone: Backbones = Backbones()
    weights: str = "cafe"
    made: list[str] = field(default_factory=list, compare=False)

    def about(self, names: Iterable[str]) -> dict[str, Any]:
        return {"weights": self.weights, "seed": self.seed, "dial": self.dial, "target_layers": self.target_layers}

    def factory(self, method: str) -> Callable[[], Policy]:
        if self.target_layers is not None and self.target_layers < 3:
            raise ConfigError("random skipping runs at least 3 layers")
        layers = self.target_layers or (12.0 if self.dial is None else 4.0 - self.dial)
        self.made.append(f"{method} {layers:g}")
        return partial(guessing.NoisyGuesser, 0.4 + 0.05 * (12 - layers), round(layers))


def stage(out: Path, split: Any = "test", count: int = 12, **options: Any) -> Stage:
    suite = guessing.GuessingSuite()
    specs = [replace(spec, seed=spec.seed + 1000 * (split == "tune")) for spec in suite.episodes(split, count)]
    return Stage(suite, specs, out / split, **options)


def splits(out: Path, **options: Any) -> Splits:
    return Splits(stage(out, "tune", **options), stage(out, "test", **options))


def test_a_dial_is_played_once(tmp_path: Path) -> None:
    recipe = Recipe()
    loop = ClosedLoop("dysl", recipe, stage(tmp_path))
    assert loop.at(-1.0).layers == 5.0 and loop.at(-1.0) == loop.at(-1.0)
    assert recipe.made == ["dysl 5"]
    assert loop.full().layers == 12.0
    assert (tmp_path / "test" / "dysl" / "dial_-1" / "episodes.jsonl").exists()


def test_the_drop_pairs_the_episodes_of_method_and_full_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The full model solves 0 to 7 of 12, the method 4 to 9: it loses 4 and wins 2, 2 / 12 of success in all."""
    solved = {"full": range(8), "dysl": range(4, 10)}

    def play(self: Stage, method: str, recipe: Any, folder: str) -> EvaluationResult:
        about = {"suite": "guessing", "split": "tune", "task": "guess", "seed": 0, "status": "done"}
        records = [
            EpisodeRecord(method, index=i, success=i in solved[method], inferences=1, **about) for i in range(12)
        ]
        return summarize("guessing", "tune", 12, [method], records)

    monkeypatch.setattr(Stage, "play", play)
    drop = ClosedLoop("dysl", Recipe(), stage(tmp_path)).drop(1.0)
    assert drop.points == pytest.approx(100 / 6)
    assert (drop.low / 100, drop.high / 100) == pytest.approx(paired_difference(4, 2, 12))


def test_of_chains_the_drop_counts_subtasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The full model solves 4 of 5 everywhere, no chain to its end, the method 3 in half of them: a tenth is lost."""
    solved = {"full": [4] * 12, "dysl": [3, 4] * 6}
    at = stage(tmp_path)
    monkeypatch.setattr(at.suite, "max_score", 5, raising=False)

    def play(self: Stage, method: str, recipe: Any, folder: str) -> EvaluationResult:
        about = {"suite": "guessing", "split": "tune", "task": "guess", "seed": 0, "status": "done", "layers_run": 9}
        records = [
            EpisodeRecord(method, index=i, success=False, score=score, inferences=1, **about)
            for i, score in enumerate(solved[method])
        ]
        return summarize("guessing", "tune", 12, [method], records, 5)

    monkeypatch.setattr(Stage, "play", play)
    loop = ClosedLoop("dysl", Recipe(), at)
    assert (loop.full().solved, loop.at(1.0).solved) == pytest.approx((0.8, 0.7))
    drop = loop.drop(1.0)
    assert drop.points == pytest.approx(10)
    assert 0 < drop.low < 10 < drop.high < 20
    assert not find_success(loop, (0.0, 1.0), 9.0).met
    assert find_success(loop, (0.0, 1.0), 11.0).met
    solved["dysl"] = solved["full"]
    same = ClosedLoop("dysl", Recipe(), at).drop(1.0)
    assert same.points == 0 and same.low < -20 < 20 < same.high  # 12 chains alike say little


def test_a_crash_is_no_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recipe, "factory", lambda *_: partial(guessing.Crashing, [101]))
    with pytest.raises(PluginError, match=r"1 of 12 episodes of 'dysl' crashed.*broken arm"):
        ClosedLoop("dysl", Recipe(), stage(tmp_path)).at(0.0)


def test_milliseconds_are_those_of_a_layer(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_backbone: type[TinyBackbone],
    tiny_suite: type[TinyReach],
) -> None:
    """A stub that says its layers take 0.5 ms each: 5 layers at dial -1, in 2.5 ms."""
    shown = tiny_suite().demonstrate(tiny_suite().episodes("tune", 1)[0]).observations
    monkeypatch.setattr(closed_loop, "demonstration_frames", lambda *_: [shown])
    monkeypatch.setattr(closed_loop, "SERIES", Series(warmup=0, iterations=3, min_seconds=0.0))
    loop = ClosedLoop("dysl", Recipe(backbone=Backbones(tiny_backbone())), stage(tmp_path, "tune"))
    assert loop.ms_per_layer(-1.0) == loop.ms_per_layer(None) == pytest.approx(0.5)
    found = find_dial(loop, (-8.0, 1.0), TargetMs(2.5))
    assert found.met and (found.outcome.layers, found.ms) == (5.0, pytest.approx(2.5))


def test_one_exit_for_all_is_not_set_to_what_a_dial_came_to(tmp_path: Path) -> None:
    """It would be the same exit again."""
    points = curves(["dysl", "static"], Recipe(), [5.0], splits(tmp_path), seed=0)
    assert [(point.setting.method, point.setting.label) for point in points] == [("dysl", "5"), ("static", "5")]


def test_every_kind_of_method_gets_its_points(tmp_path: Path) -> None:
    points = curves(["dysl", "random-skip-adapters"], Recipe(), [5.0, 7.0], splits(tmp_path), seed=3)
    assert [(point.setting.method, point.setting.label) for point in points] == [
        ("dysl", "5"),
        ("dysl", "7"),
        ("random-skip-adapters", "like dysl at 5"),
        ("random-skip-adapters", "like dysl at 7"),
    ]
    dysl = points[0].setting
    assert dysl.found is not None and dysl.found.met and dysl.found.outcome.episodes == 12
    assert points[2].setting.target_layers == dysl.found.outcome.layers
    assert {point.seed for point in points} == {3}
    assert {record.split for point in points for record in point.records} == {"test"}
    assert {json.loads(file.read_text())["split"] for file in tmp_path.glob("tune/*/*/manifest.json")} == {"tune"}


def test_without_a_method_to_follow_chance_is_set_to_the_budgets(tmp_path: Path) -> None:
    points = curves(["random-skip-adapters"], Recipe(), [5.0, 7.0], splits(tmp_path), seed=0)
    assert [(point.setting.label, point.setting.target_layers) for point in points] == [("5", 5.0), ("7", 7.0)]


def test_the_full_model_has_one_point_and_no_seed(tmp_path: Path) -> None:
    point = full_model(Recipe(), stage(tmp_path))
    assert (point.seed, point.setting.method, len(point.records)) == (None, "full", 12)


def test_resumed_it_plays_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["dysl", "random-skip-adapters"], Recipe(), [5.0, 7.0]
    first = curves(*arguments, splits(tmp_path), seed=0)
    monkeypatch.setattr(guessing.GuessingSuite, "make", lambda self: pytest.fail("played"))
    assert curves(*arguments, splits(tmp_path, resume=True), seed=0) == first


def test_resumed_with_another_budget_it_plays_that_one(tmp_path: Path) -> None:
    curves(["dysl"], Recipe(), [5.0], splits(tmp_path), seed=0)
    before = sorted(tmp_path.glob("test/*/*"))
    curves(["dysl"], Recipe(), [5.0, 7.0], splits(tmp_path, resume=True), seed=0)
    assert len(sorted(tmp_path.glob("test/*/*"))) == len(before) + 1


def test_resumed_with_other_weights_it_refuses(tmp_path: Path) -> None:
    curves(["dysl"], Recipe(), [5.0], splits(tmp_path), seed=0)
    with pytest.raises(ArtifactError, match=r"about\.weights: then 'cafe', now 'beef'"):
        curves(["dysl"], Recipe(weights="beef"), [5.0], splits(tmp_path, resume=True), seed=0)


def test_a_budget_that_random_cannot_run_fails_before_any_episode(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 3 layers"):
        curves(["dysl", "random-skip-adapters"], Recipe(), [5.0, 2.0], splits(tmp_path), seed=0)
    assert not list(tmp_path.iterdir())


def test_tune_and_test_never_mix(tmp_path: Path) -> None:
    tune, test = stage(tmp_path, "tune"), stage(tmp_path, "test")
    with pytest.raises(ConfigError, match="12 seeds in common"):
        Splits(test, test)
    with pytest.raises(ConfigError, match="1 seeds in common"):
        Splits(tune, replace(test, specs=[*test.specs[:3], replace(test.specs[3], seed=tune.specs[0].seed)]))
    with pytest.raises(ConfigError, match="0 seeds in common"):
        Splits(tune, replace(test, specs=[replace(spec, split="tune") for spec in test.specs]))
