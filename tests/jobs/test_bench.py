"""The document of ``dyslctl bench --json``: its keys, its sources, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dyslctl.devices.presets import find_device
from dyslctl.devices.roofline import ModuleParams, Usage, predict
from dyslctl.dysl.guidance import GuidanceSettings
from dyslctl.dysl.partition import LayerPartition
from dyslctl.dysl.skip_modules import SkipModules, SkipSizes
from dyslctl.errors import ConfigError, EnvironmentMismatch
from dyslctl.jobs import bench as bench_module
from dyslctl.jobs.bench import BenchPlan, Subject, bench, torch_device
from dyslctl.jobs.latency import Series
from dyslctl.jobs.prediction import choose_workload, headline, module_params, scaled

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach

KEYS = {"method", "source", "llm_ms_p50", "end_to_end_ms_p50", "layers_run", "speedup"}
PLAN = BenchPlan(("dysl", "random-skip-adapters"), Series(warmup=1, iterations=6, min_seconds=0.0), episodes=2)


@dataclass(frozen=True)
class Assets:
    modules: SkipModules
    guidance: GuidanceSettings


@pytest.fixture
def subject(tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]) -> Subject:
    """Eight layers, two static; every controller says yes, so each inference runs 2 and jumps once."""
    modules = SkipModules(LayerPartition(8, (0, 7)), SkipSizes.mini(16)).eval().requires_grad_(False)
    for layer in modules.partition.dynamic_layers:
        torch.nn.init.constant_(modules.controller(layer).out.bias, 50.0)
    guidance = GuidanceSettings(eta_1=-1e6, eta_2=1e6)
    return Subject("openvla-oft", tiny_backbone(), tiny_suite(), Assets(modules, guidance))


def test_this_machine_is_measured(subject: Subject) -> None:
    document = bench(subject, PLAN)
    assert next(iter(document)) == "schema" and document["schema"] == "dyslctl.bench/1"
    assert document["device"] == "cpu" and document["source"] == "measured"
    rows = {row["method"]: row for row in document["rows"]}
    assert list(rows) == ["full", "dysl", "random-skip-adapters"]
    assert all(row.keys() >= KEYS and row["source"] == "measured" for row in rows.values())
    assert (rows["full"]["layers_run"], rows["dysl"]["layers_run"]) == (8.0, 2.0)
    assert rows["dysl"]["controllers_per_inference"] == rows["dysl"]["jumps_per_inference"] == 1.0
    assert rows["random-skip-adapters"]["layers_run"] == 2.0  # what dysl ran
    assert rows["full"]["speedup"] == 1.0 and rows["full"]["inferences"] == 6
    assert set(rows["dysl"]["parts_ms"]) == {
        *("encode", "layers", "controllers", "adapters", "reprediction", "head", "guidance"),
    }
    assert isinstance(document["skip_efficiency"], float) and isinstance(document["controller_overhead"], float)
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_another_device_is_predicted_at_the_published_size(subject: Subject) -> None:
    document = bench(subject, PLAN, device="orin")
    assert document["source"] == "predicted" and document["workload"] == "tiny-1b" and document["num_layers"] == 24
    predicted = {row["method"]: row for row in document["rows"] if row["source"] == "predicted"}
    published = {row["method"]: row for row in document["rows"] if row["source"] == "published"}
    assert list(predicted) == ["full", "dysl", "random-skip-adapters"]
    assert all(row.keys() >= KEYS for row in document["rows"])
    assert (published["full"]["llm_ms_p50"], published["dysl"]["llm_ms_p50"]) == (676, 345)
    assert published["dysl"]["end_to_end_ms_p50"] is None and "Table 3" in published["dysl"]["citation"]
    # 2 of 8 layers, one controller and one jump become 6 of 24, three and three.
    assert (predicted["dysl"]["layers_run"], predicted["dysl"]["jumps_per_inference"]) == (6.0, 3.0)
    size = subject.backbone.workloads()["tiny-1b"]
    expected = predict(find_device("orin"), size, Usage(6, 3, 3), module_params(size, None))
    assert predicted["dysl"]["llm_ms_p50"] == pytest.approx(expected.llm_ms)
    assert predicted["dysl"]["calibration"] == expected.calibration
    # Six controllers over eight layers become 18 over 24.
    full, every = Usage(24), Usage(24, controllers=18)
    never = predict(find_device("orin"), size, every, module_params(size, None)).llm_ms
    plain = predict(find_device("orin"), size, full).llm_ms
    assert document["controller_overhead"] == pytest.approx(never / plain - 1)
    json.dumps(document, allow_nan=False)


def test_its_own_size_can_be_predicted_too(subject: Subject) -> None:
    document = bench(subject, BenchPlan(("full",), PLAN.series, 1), device="h100", workload="own")
    assert (document["workload"], document["num_layers"], document["bound_only"]) == ("own", 8, True)
    assert [row["source"] for row in document["rows"]] == ["predicted"]
    assert document["rows"][0]["band_pct"] is None


def test_a_live_device_is_measured(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "live_device", lambda: "orin")
    document = bench(subject, BenchPlan(("full",), PLAN.series, 1), device="orin")
    assert document["source"] == "measured"
    assert {row["source"] for row in document["rows"]} == {"measured", "published"}
    assert torch_device("orin") == "cuda"


def test_without_a_bundle_only_the_full_model_runs(subject: Subject) -> None:
    bare = Subject(subject.plugin, subject.backbone, subject.suite)
    document = bench(bare, BenchPlan(("full",), PLAN.series, 1))
    assert document["skip_efficiency"] is None and document["controller_overhead"] is None
    with pytest.raises(ConfigError, match="trained skip modules"):
        bench(bare, PLAN)


def test_threads_are_limited_and_given_back(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(bench_module, "usable_cpus", lambda: 1)
    assert bench(subject, BenchPlan(("full",), PLAN.series, 1))["threads"] == 1
    assert torch.get_num_threads() == before


def test_wrong_names_are_refused(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no device named 'orrin'\. Did you mean 'orin'"):
        bench(subject, PLAN, device="orrin")
    with pytest.raises(ConfigError, match=r"no workload named 'tiny-2b'\. Did you mean 'tiny-1b'"):
        bench(subject, PLAN, device="orin", workload="tiny-2b")
    with pytest.raises(ConfigError, match="at its own size"):
        bench(subject, PLAN, device="cpu", workload="tiny-1b")
    with pytest.raises(ConfigError, match="no method named 'dysle'"):
        bench(subject, BenchPlan(("dysle",)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentMismatch, match="no CUDA device"):
        torch_device("cuda")
    assert (torch_device("cpu"), torch_device("a6000")) == ("cpu", "cpu")


def test_module_parameters_follow_the_papers_presets(tiny_backbone: type[TinyBackbone]) -> None:
    workload = choose_workload(tiny_backbone(), None)[1]
    assert workload.hidden_size == 2048
    assert module_params(workload, None) == ModuleParams(adapter=661_664, controller=69_697)
    own = SkipSizes(2048, 1, 1)  # 2 H r + r + H + 2 H and 2 H + H h + h + h + 1
    assert module_params(workload, own) == ModuleParams(adapter=10_241, controller=6_147)


def test_scaling_and_headline() -> None:
    assert scaled(Usage(12, 4, 2), 32 / 16) == Usage(24, 8, 4)
    rows: list[dict[str, Any]] = [
        {"method": "full", "skip_efficiency": None},
        {"method": "deer", "skip_efficiency": 0.9},
    ]
    assert headline(rows) == 0.9
    assert headline([*rows, {"method": "dysl", "skip_efficiency": 0.8}]) == 0.8
    assert headline(rows[:1]) is None
