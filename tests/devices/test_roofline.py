"""The roofline model against arithmetic done by hand and against published rows it was not calibrated on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dyslctl.backbone import Workload
from dyslctl.devices.presets import Calibration, calibration_workload, find_device, load_presets
from dyslctl.devices.roofline import ModuleParams, Usage, layer_flop, predict
from dyslctl.errors import ConfigError
from dyslctl.reference.published import published_latency

LLAMA_7B = Workload(32, 605, 4096, 202_383_360, 840.3, 819_100_000, 2.4, 151_100_000)
PUBLISHED = [
    pytest.param(name, stack.calibration, id=name)
    for name, device in load_presets().devices.items()
    for stack in device.stacks.values()
    if stack.calibration.basis == "published"
]


def test_flop_of_a_llama_7b_layer() -> None:
    # 2 x 202,383,360 x 605 + 4 x 605^2 x 4096 = 244,883,865,600 + 5,996,953,600
    assert layer_flop(LLAMA_7B) == 250_880_819_200


def test_layer_parameters_of_llama_7b() -> None:
    d, ff = 4096, 11008
    assert load_presets().models["openvla-oft-7b"].layer_params == 4 * d * d + 3 * d * ff + 2 * d


@pytest.mark.parametrize(("name", "row"), PUBLISHED)
def test_the_calibration_row_is_reproduced(name: str, row: Calibration) -> None:
    found = predict(find_device(name), calibration_workload(row), Usage(32))
    predicted = found.llm_ms if row.measure == "llm_ms" else found.end_to_end_ms
    assert predicted == pytest.approx(row.value, rel=5e-3)
    assert found.band_pct == 10.0 and not found.bound_only
    assert row.row in found.calibration and row.assumed in found.calibration


def test_llm_share_fixes_vision_and_head() -> None:
    found = predict(find_device("orin"), LLAMA_7B, Usage(32))
    assert found.llm_ms / found.end_to_end_ms == pytest.approx(0.754, abs=2e-3)


def test_held_out_orin_rows_from_a6000_rows() -> None:
    """One scale per device, from its full row alone; the other rows of the table are held out."""
    a6000 = {row.method: row.llm_ms for row in published_latency("a6000", "openvla-oft")}
    orin = {row.method: row.llm_ms for row in published_latency("orin", "openvla-oft")}
    one_image, errors = replace(LLAMA_7B, tokens=350), {}
    for method in ("dysl-paper", "deer", "flexidepth", "random-skip"):
        source, target = a6000[method], orin[method]
        assert source is not None and target is not None
        layers = source / predict(find_device("a6000"), one_image, Usage(1)).llm_ms
        errors[method] = (predict(find_device("orin"), LLAMA_7B, Usage(layers)).llm_ms / target - 1) * 100
    assert errors == pytest.approx({"dysl-paper": 1.3, "deer": 3.6, "flexidepth": 7.2, "random-skip": 16.2}, abs=0.05)
    assert sum(abs(error) for error in errors.values()) / 4 == pytest.approx(7.1, abs=0.05)


@pytest.mark.parametrize(
    ("name", "tokens", "milliseconds"),
    [("orin", 605, 362.4), ("rtx4090", 605, 64.8), ("a6000", 605, 79.8), ("a800", 605, 42.9), ("h200", 605, 13.5)],
)
def test_graph_stack_is_flop_over_achieved_peak(name: str, tokens: int, milliseconds: float) -> None:
    found = predict(find_device(name), replace(LLAMA_7B, tokens=tokens), Usage(32), stack="graph")
    assert found.llm_ms == pytest.approx(milliseconds, abs=0.06)
    assert found.band_pct is None


def test_an_uncalibrated_device_gives_the_bound() -> None:
    found = predict(find_device("h100"), LLAMA_7B, Usage(32))
    # 32 x 250.8808 GFLOP / 989 TFLOP/s
    assert found.llm_ms == pytest.approx(8.1175, abs=1e-3)
    assert found.bound_only and found.band_pct is None and "bound only" in found.calibration


def test_few_tokens_are_bound_by_the_weight_stream() -> None:
    found = predict(find_device("h100"), replace(LLAMA_7B, tokens=1), Usage(32))
    # 32 x 202,383,360 x 2 bytes / 3350 GB/s
    assert found.llm_ms == pytest.approx(3.8664, abs=1e-3)


def test_a_tiny_model_is_bound_by_the_host_and_has_no_band() -> None:
    mini = Workload(24, 60, 128, 200_000, 0.1, 100_000, 0.001, 10_000)
    found = predict(find_device("orin"), mini, Usage(24))
    assert found.parts_ms["layers"] == pytest.approx(24 * 0.6)
    assert found.band_pct is None and "Host-bound" in found.calibration


def test_controllers_and_adapters_are_added_apart() -> None:
    device, params = find_device("h100"), ModuleParams(adapter=8_401_920, controller=303_249)
    plain = predict(device, LLAMA_7B, Usage(20))
    skipping = predict(device, LLAMA_7B, Usage(20, controllers=6, jumps=5), params)
    # 5 x 2 x 8,401,920 x 605 FLOP / 989 TFLOP/s and 6 x 303,249 x 2 bytes / 3350 GB/s
    assert skipping.parts_ms["adapters"] == pytest.approx(0.051397, abs=1e-5)
    assert skipping.parts_ms["controllers"] == pytest.approx(0.0010863, abs=1e-6)
    assert skipping.llm_ms == pytest.approx(plain.llm_ms + 0.051397 + 0.0010863, abs=1e-5)
    eager = predict(find_device("orin"), LLAMA_7B, Usage(20, controllers=6), params)
    assert eager.parts_ms["controllers"] == pytest.approx(6 * (0.09 + 606_498 / 163.84e9 * 1e3), rel=1e-6)


def test_end_to_end_is_the_sum_of_its_parts() -> None:
    found = predict(find_device("orin"), LLAMA_7B, Usage(16.5, 6, 5), ModuleParams(8_401_920, 303_249))
    assert found.end_to_end_ms == pytest.approx(sum(found.parts_ms.values()))
    assert found.llm_ms == pytest.approx(found.end_to_end_ms - found.parts_ms["encode"] - found.parts_ms["head"])


def test_an_unknown_stack_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"no stack named 'grpah'. Did you mean 'graph'") as caught:
        predict(find_device("orin"), LLAMA_7B, Usage(32), stack="grpah")
    assert caught.value.hint == "--set bench.stack=NAME"


def test_no_calibration_needs_more_than_the_peak() -> None:
    for device in load_presets().devices.values():
        for name in device.stacks:
            bound = 32 * layer_flop(LLAMA_7B) / device.peak_tflops.value / 1e9
            assert predict(device, LLAMA_7B, Usage(32), stack=name).llm_ms > bound
