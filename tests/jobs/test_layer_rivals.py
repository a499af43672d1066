"""Interleaving, ratios of pairs and action errors, on a clock that the ways themselves turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from dyslctl.cli.config import BenchConfig
from dyslctl.errors import ConfigError
from dyslctl.jobs.latency import Series
from dyslctl.jobs.layer_rivals import RIVALS, action_error, compare, interleaved
from dyslctl.runtime.packed import with_backend
from dyslctl.types import LayerInputs, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

QUICK = Series(warmup=1, iterations=3, min_seconds=0.0)
FRAMES = [
    Observation({"agent": np.full((8, 8, 3), 40 * i, np.uint8)}, "reach red", np.zeros(2, np.float32)) for i in range(2)
]


class Bench:
    """A clock, and ways that take what they say."""

    def __init__(self) -> None:
        self.time, self.book = 0.0, list[str]()

    def now(self) -> float:
        return self.time

    def way(self, name: str, takes: Callable[[Any], float]) -> Callable[[Any], None]:
        def run(item: Any) -> None:
            self.book.append(f"{name}{item}")
            self.time += takes(item)

        return run


def test_every_way_takes_every_item_in_turn() -> None:
    bench = Bench()
    ways = {"a": bench.way("a", lambda item: item), "b": bench.way("b", lambda item: 2 * item)}
    found = interleaved(ways, [1, 4], QUICK, bench.now)
    # One round to warm up; then items 4, 1, 4, and whoever begins takes turns.
    assert bench.book == ["a1", "b1", "b4", "a4", "a1", "b1", "b4", "a4"]
    assert (found["a"].tolist(), found["b"].tolist()) == ([4, 1, 4], [8, 2, 8])


def test_it_goes_on_until_the_time_is_up() -> None:
    bench = Bench()
    found = interleaved({"a": bench.way("a", lambda _: 1.0)}, [0], Series(0, 2, min_seconds=7.0), bench.now)
    assert len(found["a"]) == 7
    with pytest.raises(ConfigError, match="nothing to time"):
        interleaved({}, [], QUICK, bench.now)


def stocked(tiny_backbone: type[TinyBackbone]) -> TinyBackbone:
    """With a stock model: layer 0 alone."""

    class Stocked(tiny_backbone):  # type: ignore[misc, valid-type]
        def stock_layers(self) -> Callable[[LayerInputs], Tensor]:
            def run(inputs: LayerInputs) -> Tensor:
                return inputs.hidden + 1

            return run

    backbone: TinyBackbone = Stocked()
    return backbone


def test_a_row_for_each_rival(tiny_backbone: type[TinyBackbone], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda run: run)
    upstream, ticks = stocked(tiny_backbone), iter(range(10_000))
    ours = with_backend(tiny_backbone(), "packed")
    rows = compare(ours, upstream, RIVALS, FRAMES, QUICK, clock=lambda: next(ticks))
    assert [row["against"] for row in rows] == ["eager", "transformers", "transformers-compiled"]
    for row in rows:  # the clock ticks once a look, so that everything takes one second
        assert (row["layers_ms_p50"], row["ours_ms_p50"], row["ratio"]) == (1000.0, 1000.0, 1.0)
    assert rows[0]["action_error_mean"] <= rows[0]["action_error_max"] < 1e-5
    assert "action_error_max" not in rows[1]


def test_a_ratio_is_the_median_of_pairs(tiny_backbone: type[TinyBackbone], monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs 3, 40, 6 over ours 1, 10, 3: 3, 4 and 2, of which 3 is the middle; the medians give 6 / 3 = 2."""
    from dyslctl.jobs import layer_rivals

    seconds = {"ours": np.array([1.0, 10.0, 3.0]), "eager": np.array([3.0, 40.0, 6.0])}
    monkeypatch.setattr(layer_rivals, "interleaved", lambda *_: seconds)
    (row,) = compare(tiny_backbone(), tiny_backbone(), ["eager"], FRAMES, QUICK)
    assert (row["layers_ms_p50"], row["ours_ms_p50"], row["ratio"]) == (6000.0, 3000.0, 3.0)


def test_what_does_not_compile_is_said_and_the_rest_is_timed(
    tiny_backbone: type[TinyBackbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: object) -> Callable[[LayerInputs], Tensor]:
        def fails(inputs: LayerInputs) -> Tensor:
            raise RuntimeError("no C++ compiler\nand a long trace")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    backbone = stocked(tiny_backbone)
    rows = compare(backbone, backbone, ["transformers-compiled", "transformers"], FRAMES, QUICK)
    assert rows[0] == {"against": "transformers-compiled", "why_not": "RuntimeError: no C++ compiler"}
    assert rows[1]["ratio"] > 0


def test_action_error_by_hand(tiny_backbone: type[TinyBackbone], monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros against 0.1 and 0.3 in turn."""
    ours, upstream = tiny_backbone(), tiny_backbone()
    inputs = [ours.encode([frame]) for frame in FRAMES]
    answers = iter([torch.full((1, 4, 3), value) for value in (0.1, 0.3)])
    monkeypatch.setattr(ours, "predict", lambda state: torch.zeros(1, 4, 3))
    monkeypatch.setattr(upstream, "predict", lambda state: next(answers))
    found = action_error(ours, upstream, inputs)
    assert found == {"action_error_mean": pytest.approx(0.2), "action_error_max": pytest.approx(0.3)}


def test_what_there_is_not_is_refused(tiny_backbone: type[TinyBackbone]) -> None:
    backbone = tiny_backbone()
    with pytest.raises(ConfigError, match=r"TinyBackbone names no stock model to compare with"):
        compare(backbone, backbone, ["transformers"], FRAMES, QUICK)
    with pytest.raises(ConfigError, match="--compare: expected eager, transformers, transformers-compiled, found 'x'"):
        compare(backbone, backbone, ["x"], FRAMES, QUICK)


def test_the_configuration_names_the_same_rivals() -> None:
    annotation = BenchConfig.model_fields["compare"].annotation
    assert get_args(get_args(annotation)[0]) == RIVALS
