"""What is charged for an inference elsewhere, against what the policy called here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from dyslctl.baselines.deer import ConsistencyPolicy
from dyslctl.baselines.mole import LayerRouter, MixtureSizes
from dyslctl.devices.presets import find_device
from dyslctl.devices.roofline import Usage
from dyslctl.dysl.exit_schedule import ExitLadder
from dyslctl.dysl.exits import ExitModules, ExitSizes
from dyslctl.dysl.partition import LayerPartition
from dyslctl.jobs.latency import Series, measure
from dyslctl.jobs.latency_prediction import headline, predict_usages
from dyslctl.method_assets import Assets
from dyslctl.types import Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

NEVER, ALWAYS = -math.inf, math.inf
DECISION_MS = 0.09
"""Of Orin under ``paper-eager``."""
ONCE = Series(warmup=0, iterations=1, min_seconds=0.0)


@dataclass(frozen=True)
class Exits:
    modules: ExitModules
    deltas: np.ndarray
    share: float = 0.5
    execute_horizon: int = 2


@dataclass(frozen=True)
class Router:
    router: LayerRouter
    share: float = 0.5


@pytest.fixture
def exits() -> ExitModules:
    """Before layers 1, 3 and 5 of 8."""
    sizes = ExitSizes(16, 4, 3, adapter_rank=16, remembers=False)
    return ExitModules(LayerPartition(8, (0,)), (1, 3, 5), sizes).eval().requires_grad_(False)


def charged(tiny_backbone: type[TinyBackbone], name: str, usage: Usage, assets: Assets) -> dict[str, Any]:
    """The row of ``name`` on Orin, three times as deep; ``heads``: how often that of ``full``."""
    size = tiny_backbone().workloads()["tiny-1b"]
    document = predict_usages({"full": Usage(8), name: usage}, 8, assets, find_device("orin"), size, "paper-eager")
    full, row = document["rows"]
    return {**row, "heads": row["parts_ms"]["head"] / full["parts_ms"]["head"]}


@pytest.mark.parametrize(
    ("thresholds", "here", "there"),
    [
        # Calls of (adapters, head) here. There are nine exits: asked about are all but the first of those tried.
        pytest.param([ALWAYS, NEVER], (2, 2), (6, 5, 6), id="the second exit ends it"),
        pytest.param([NEVER, ALWAYS], (3, 3), (9, 8, 9), id="the last exit ends it"),
        pytest.param([NEVER, NEVER], (3, 4), (9, 8, 10), id="no exit ends it: the whole model predicts too"),
    ],
)
def test_deer_is_charged_with_what_it_called(
    tiny_backbone: type[TinyBackbone],
    exits: ExitModules,
    monkeypatch: pytest.MonkeyPatch,
    thresholds: Sequence[float],
    here: tuple[int, int],
    there: tuple[int, int, int],
) -> None:
    backbone, ladder = tiny_backbone(), ExitLadder(exits)
    adapter, head = Mock(wraps=ladder.jump), Mock(wraps=backbone.predict)
    monkeypatch.setattr(ladder, "jump", adapter)
    monkeypatch.setattr(backbone, "predict", head)
    policy = ConsistencyPolicy(backbone, ladder, thresholds, 2)
    seen = Observation({"agent": np.zeros((8, 8, 3), np.uint8)}, "reach red", np.zeros(2, np.float32))
    usage = measure(backbone, {"deer": policy}, [[seen]], ONCE)["deer"].usage
    assert (adapter.call_count, head.call_count) == here

    row = charged(tiny_backbone, "deer", usage, Assets(bundles={"deer": Exits(exits, np.zeros((1, 2)))}))
    found = row["jumps_per_inference"], row["controllers_per_inference"], row["heads"]
    assert found == pytest.approx(there)
    assert row["parts_ms"]["controllers"] == pytest.approx(there[1] * DECISION_MS), "it waits, and has no parameters"


def test_an_average_of_inferences_is_charged_as_their_average(
    tiny_backbone: type[TinyBackbone], exits: ExitModules
) -> None:
    """Of two, the second exit ends one and none the other: (6 + 9) / 2 adapters, (5 + 8) / 2 asked, (6 + 10) / 2."""
    assets = Assets(bundles={"deer": Exits(exits, np.zeros((1, 2)))})
    row = charged(tiny_backbone, "deer", Usage(layers=5.5, controllers=1.5, jumps=0.5), assets)
    found = row["layers_run"], row["jumps_per_inference"], row["controllers_per_inference"], row["heads"]
    assert found == pytest.approx((16.5, 7.5, 6.5, 8.0))


def test_mole_waits_for_its_router_once(tiny_backbone: type[TinyBackbone]) -> None:
    with torch.device("meta"):
        assets = Assets(bundles={"mole": Router(LayerRouter(MixtureSizes(16, 8, 16)))})
    row = charged(tiny_backbone, "mole", Usage(layers=4, controllers=1, jumps=4), assets)
    assert (row["layers_run"], row["controllers_per_inference"], row["jumps_per_inference"]) == (12, 1, 1)
    assert row["parts_ms"]["controllers"] == pytest.approx(DECISION_MS) and row["parts_ms"]["adapters"] > 0


@pytest.mark.parametrize("name", ["random-skip", "random-skip-layers"])
def test_a_plain_jump_costs_nothing(tiny_backbone: type[TinyBackbone], name: str) -> None:
    row = charged(tiny_backbone, name, Usage(layers=4, jumps=3), Assets())
    assert row["parts_ms"]["adapters"] == row["parts_ms"]["controllers"] == 0.0
    assert row["speedup"] == pytest.approx(2.0), "half of the layers, and nothing beside"


def test_jumps_of_random_exits_go_through_adapters(tiny_backbone: type[TinyBackbone]) -> None:
    row = charged(tiny_backbone, "random-skip-adapters", Usage(layers=4, jumps=1), Assets())
    assert row["jumps_per_inference"] == 1 and row["parts_ms"]["adapters"] > 0


def test_static_is_charged_with_its_own_adapter(tiny_backbone: type[TinyBackbone], exits: ExitModules) -> None:
    """At the loaded size, where ranks are the bundles' own: half as wide, it takes less time."""
    narrow = ExitModules(exits.partition, exits.exits, replace(exits.sizes, adapter_rank=8))
    own, wide = Exits(narrow, np.zeros((1, 2))), Exits(exits, np.zeros((1, 2)))
    size, took = tiny_backbone().workload(), []
    for assets in (Assets(bundles={"dysl": own, "static": wide}), Assets(bundles={"static": own})):
        usages = {"full": Usage(8), "static": Usage(4, jumps=1)}
        document = predict_usages(usages, 8, assets, find_device("orin"), size, "paper-eager")
        took.append(document["rows"][1]["parts_ms"]["adapters"])
    assert took[1] < took[0]


def test_headline() -> None:
    rows: list[dict[str, Any]] = [
        {"method": "full", "skip_efficiency": None},
        {"method": "deer", "skip_efficiency": 0.9},
    ]
    assert headline(rows) == 0.9
    assert headline([*rows, {"method": "dysl", "skip_efficiency": 0.8}]) == 0.8
    assert headline(rows[:1]) is None


def test_the_headline_is_that_of_dysl_even_if_it_skipped_nothing() -> None:
    chance = {"method": "random-skip-adapters", "skip_efficiency": 0.9}
    assert headline([chance, {"method": "dysl", "skip_efficiency": None}]) is None
    assert headline([{"method": "full", "skip_efficiency": None}, chance]) == 0.9
