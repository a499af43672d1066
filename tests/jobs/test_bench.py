"""The document of ``dyslctl bench --json``: its keys, its sources, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dyslctl.devices.presets import find_device
from dyslctl.devices.roofline import Usage, predict
from dyslctl.dysl.exit_policy import ExitPolicy, ExitSettings
from dyslctl.dysl.exit_schedule import PlannedExit
from dyslctl.dysl.exits import ExitModules, ExitSizes
from dyslctl.dysl.partition import LayerPartition
from dyslctl.errors import ConfigError, EnvironmentMismatch
from dyslctl.jobs import bench as bench_module
from dyslctl.jobs.bench import BenchPlan, Subject, bench, torch_device
from dyslctl.jobs.charges import exit_params
from dyslctl.jobs.latency import Series, demonstration_frames
from dyslctl.jobs.token_sweep import EvenlySpaced, alike
from dyslctl.method_assets import Assets
from dyslctl.types import LayerInputs, LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach

SIZES = ExitSizes(16, 4, 3, adapter_rank=16)
KEYS = {"method", "source", "llm_ms_p50", "end_to_end_ms_p50", "layers_run", "speedup"}
PLAN = BenchPlan(("dysl", "random-skip-adapters"), Series(warmup=1, iterations=6, min_seconds=0.0), episodes=2)


@dataclass(frozen=True)
class Exits:
    modules: ExitModules
    settings: ExitSettings
    execute_horizon: int


@pytest.fixture
def subject(tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]) -> Subject:
    """Eight layers, exits before layers 2 and 5; the first is always taken."""
    suite = tiny_suite()
    modules = ExitModules(LayerPartition(8, (0, 1)), (2, 5), SIZES).eval().requires_grad_(False)
    assets = Assets(bundles={"dysl": Exits(modules, ExitSettings(99.0), suite.execute_horizon)})
    return Subject("openvla-oft", tiny_backbone(), suite, assets)


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
        *("encode", "layers", "controllers", "adapters", "tokens", "reprediction", "head", "guidance"),
    }
    assert document["power_mode"] == document["power"]["mode"] and "watts_mean" in document["power"]
    assert isinstance(document["skip_efficiency"], float) and isinstance(document["controller_overhead"], float)
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_another_device_is_predicted_at_the_published_size(subject: Subject) -> None:
    document = bench(subject, PLAN, device="orin")
    assert document["source"] == "predicted" and document["workload"] == "tiny-1b" and document["num_layers"] == 24
    predicted = {row["method"]: row for row in document["rows"] if row["source"] == "predicted"}
    published = {row["method"]: row for row in document["rows"] if row["source"] == "published"}
    assert list(predicted) == ["full", "dysl", "random-skip-adapters"]
    assert all(row.keys() >= KEYS for row in document["rows"])
    assert (published["full"]["llm_ms_p50"], published["dysl-paper"]["llm_ms_p50"]) == (676, 345)
    assert published["dysl-paper"]["end_to_end_ms_p50"] is None and "Table 3" in published["dysl-paper"]["citation"]
    # 2 of 8 layers become 6 of 24; there is one planner and one jump at any depth.
    assert (predicted["dysl"]["layers_run"], predicted["dysl"]["jumps_per_inference"]) == (6.0, 1.0)
    size = subject.backbone.workloads()["tiny-1b"]
    expected = predict(find_device("orin"), size, Usage(6, 1, 1), exit_params(size, SIZES, 2))
    assert predicted["dysl"]["llm_ms_p50"] == pytest.approx(expected.llm_ms)
    assert predicted["dysl"]["calibration"] == expected.calibration
    full, asked = Usage(24), Usage(24, controllers=1)
    never = predict(find_device("orin"), size, asked, exit_params(size, SIZES, 2)).llm_ms
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
    assert torch_device("orin", "cpu") == "cuda"


def test_without_a_bundle_only_the_full_model_runs(subject: Subject) -> None:
    bare = Subject(subject.plugin, subject.backbone, subject.suite)
    document = bench(bare, BenchPlan(("full",), PLAN.series, 1))
    assert document["skip_efficiency"] is None and document["controller_overhead"] is None
    with pytest.raises(ConfigError, match="trained exits"):
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
    with pytest.raises(ConfigError, match="'oracle' runs the whole model"):
        bench(subject, BenchPlan(("oracle",)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentMismatch, match="no CUDA device"):
        torch_device("cuda", "cpu")
    assert torch_device("cpu", "cuda") == "cpu"


def test_what_is_predicted_counts_its_layers_where_the_run_has_its_model() -> None:
    assert (torch_device("a6000", "cpu"), torch_device("a6000", "cuda:1")) == ("cpu", "cuda:1")


def test_choosing_tokens_is_inside_the_time_and_listed_apart(subject: Subject) -> None:
    document = bench(subject, replace(PLAN, methods=("specprune", "dysl+specprune")))
    rows = {row["method"]: row for row in document["rows"]}
    for name in ("specprune", "dysl+specprune"):
        assert rows[name]["parts_ms"]["tokens"] > 0 and rows[name]["parts_ms"]["controllers"] == 0
    assert rows["specprune"]["mean_tokens"] < rows["full"]["mean_tokens"] == 13
    assert rows["full"]["parts_ms"]["tokens"] == 0


def test_the_full_pass_on_fewer_tokens_is_measured(subject: Subject) -> None:
    sweep = bench(subject, replace(PLAN, methods=("full",), tokens=(12, 13)))["tokens_sweep"]
    assert [row["tokens"] for row in sweep] == [15, 13, 12]
    assert all(row["source"] == "measured" and row["llm_ms_p50"] > 0 for row in sweep)
    first, second, third = sweep
    assert first["saving_efficiency"] is first["ms_per_token"] is None and first["speedup"] == 1
    assert second["ms_per_token"] == pytest.approx((first["llm_ms_p50"] - second["llm_ms_p50"]) / 2)
    saved = 1 - third["llm_ms_p50"] / first["llm_ms_p50"]
    assert third["saving_efficiency"] == pytest.approx(saved / (1 - 12 / 15))


def test_and_predicted(subject: Subject) -> None:
    """64 tokens of the tiny workload; at so few the weights bind, and fewer save next to nothing."""
    sweep = bench(subject, replace(PLAN, tokens=(32,)), device="orin")["tokens_sweep"]
    assert [(row["tokens"], row["source"]) for row in sweep] == [(64, "predicted"), (32, "predicted")]
    size = replace(subject.backbone.workloads()["tiny-1b"], tokens=32)
    assert sweep[1]["llm_ms_p50"] == pytest.approx(predict(find_device("orin"), size, Usage(24)).llm_ms)
    assert sweep[1]["saving_efficiency"] < 0.5


@pytest.mark.parametrize(("tokens", "device", "said"), [(11, "cpu", "at least 12"), (16, "cpu", "at most all 15")])
def test_a_number_of_tokens_that_cannot_be_is_refused(subject: Subject, tokens: int, device: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"--tokens {tokens}: expected .*{said}"):
        bench(subject, replace(PLAN, methods=("full",), tokens=(tokens,)), device=device)


@pytest.mark.parametrize(
    ("asked", "where", "said"),
    [
        ((16,), {"device": "cpu"}, "--tokens 16"),
        ((9999,), {"device": "orin"}, "--tokens 9999"),
        ((), {"device": "orin", "stack": "graf"}, "no stack named 'graf'"),
    ],
)
def test_it_is_refused_before_anything_is_timed(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, asked: tuple[int, ...], where: dict[str, Any], said: str
) -> None:
    monkeypatch.delattr(bench_module, "measure")
    with pytest.raises(ConfigError, match=said):
        bench(subject, replace(PLAN, tokens=asked), **where)


@pytest.mark.parametrize("name", ["dysl", "dysl+specprune"])
def test_what_never_skips_chooses_no_tokens_either(subject: Subject, name: str) -> None:
    """Its time over that of ``full`` is what deciding about layers costs."""
    (policy,) = bench_module._never_skip(subject, ("full", name)).values()
    assert type(policy) is ExitPolicy and type(policy.schedule) is PlannedExit


def test_a_sweep_takes_episodes_with_equally_many_tokens() -> None:
    class Words:
        def encode(self, observations: list[Observation]) -> LayerInputs:
            count = len(observations[0].instruction.split())
            return LayerInputs(torch.zeros(1, count, 2), *torch.zeros(2, 1, count, dtype=torch.int64).unbind())

    short, long = (Observation({}, words) for words in ("take it", "take the red one"))
    assert alike(Words(), [[short, short], [long], [short]]) == [[short, short], [short]]  # type: ignore[arg-type]


def test_evenly_spaced_tokens_stay(tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]) -> None:
    """Visual tokens stand at 1 to 4; two of them are the ends."""
    backbone, frame = tiny_backbone(), demonstration_frames(tiny_suite(), 1)[0][0]
    state = LayerState.of(backbone.encode([frame]))
    EvenlySpaced(13).before(0, state)
    assert [p for p in state.positions[0].tolist() if 1 <= p <= 4] == [1, 4] and state.hidden.shape[1] == 13
