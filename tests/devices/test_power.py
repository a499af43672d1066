from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.devices import power
from dyslctl.devices.power import (
    PowerMeter,
    PowerState,
    energy_used,
    mean_watts,
    parse_nvidia_smi,
    parse_nvpmodel,
    parse_tegrastats,
    power_state,
)

AGX_ORIN = (
    "01-15-2026 10:00:00 RAM 5120/30536MB (lfb 4x4MB) SWAP 0/15268MB (cached 0MB) CPU [2%@729,0%@2201,off,off] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 41%@[1300,1300] APE 200 cpu@48.2C tj@48.2C VDD_GPU_SOC 12400mW/2400mW "
    "VDD_CPU_CV 400mW/400mW VIN_SYS_5V0 3200mW/3000mW"
)
ORIN_NANO = "RAM 2000/7620MB CPU [5%@1510,1%@1510] GR3D_FREQ 0% VDD_IN 4500mW/4400mW VDD_CPU_GPU_CV 900mW/800mW"
NANO = "RAM 900/3956MB (lfb 1x4MB) IRAM 0/252kB(lfb 252kB) CPU [10%@1479] GR3D_FREQ 9%@921 POM_5V_IN 3178/3100"


def test_the_rails_of_an_agx_orin_add_up() -> None:
    found = parse_tegrastats(AGX_ORIN)
    assert found.rails == {"VDD_GPU_SOC": 12.4, "VDD_CPU_CV": 0.4, "VIN_SYS_5V0": 3.2}
    assert found.watts == pytest.approx(16.0)
    assert (found.cpu_mhz, found.gpu_mhz) == (2201.0, 1300.0)


def test_a_rail_of_the_whole_board_is_the_total() -> None:
    assert parse_tegrastats(ORIN_NANO).watts == 4.5
    assert parse_tegrastats(ORIN_NANO).gpu_mhz is None
    assert parse_tegrastats(NANO).rails == {"POM_5V_IN": 3.178}
    assert mean_watts([ORIN_NANO, "", NANO]) == pytest.approx((4.5 + 3.178) / 2)
    assert mean_watts(["RAM 1/2MB"]) is None


@given(st.dictionaries(st.from_regex(r"V[A-Z0-9_]{2,12}", fullmatch=True), st.integers(0, 99_999)), st.booleans())
def test_every_rail_is_read(rails: dict[str, int], unit: bool) -> None:
    mw = "mW" if unit else ""
    line = " ".join(["RAM 1/2MB", *(f"{name} {value}{mw}/{value}{mw}" for name, value in rails.items())])
    assert parse_tegrastats(line).rails == {name: value / 1e3 for name, value in rails.items()}


@given(st.text())
def test_any_line_is_read(line: str) -> None:
    parse_tegrastats(line)
    parse_nvpmodel(line)
    parse_nvidia_smi(line)


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: MAXN\n0\n", "MAXN"),
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_30W\n2\n", "MODE_30W"),
        ("NVPM ERROR: not permitted\n", None),
        ("", None),
    ],
)
def test_power_modes(text: str, mode: str | None) -> None:
    assert parse_nvpmodel(text) == mode


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1980, 700.00\n345, 300.00\n", (1980.0, 700.0)), ("1300, [N/A]\n", (1300.0, None)), ("", (None, None))],
)
def test_the_first_gpu(text: str, expected: tuple[float | None, float | None]) -> None:
    assert parse_nvidia_smi(text) == expected


def test_a_counter_that_begins_again() -> None:
    assert energy_used(100, 350, 1000) == 250
    assert energy_used(900, 150, 1000) == 250


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any of the programs and files."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(power, "_CPUFREQ", tmp_path / "cpufreq")
    return tmp_path


def program(folder: Path, name: str, script: str) -> None:
    file = folder / "bin" / name
    file.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    file.chmod(0o755)


def test_where_nobody_tells_nothing_is_known(bare: Path) -> None:
    assert power_state() == PowerState()
    with PowerMeter(bare / "rapl") as meter:
        pass
    assert meter.watts is None


@pytest.mark.skipif(os.name != "posix", reason="the programs are shell scripts")
def test_a_jetson(bare: Path) -> None:
    program(bare, "nvpmodel", 'echo "NV Power Mode: MODE_30W"; echo 2')
    program(bare, "nvidia-smi", "exit 9")
    program(bare, "tegrastats", f'echo "{ORIN_NANO}"; echo "{ORIN_NANO}"; exec /bin/sleep 60')
    assert power_state() == PowerState(mode="MODE_30W")
    with PowerMeter(bare / "rapl") as meter:
        for _ in range(500):  # until it has said something
            os.sched_yield()
            if os.fstat(meter._said.fileno()).st_size:
                break
            power.time.sleep(0.01)
    assert meter.watts == 4.5


def test_a_processor_with_an_energy_counter(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rapl, cpufreq = bare / "rapl", bare / "cpufreq"
    for folder, name, value in (
        (rapl, "energy_uj", "9000000"),
        (rapl, "max_energy_range_uj", "10000000"),
        (cpufreq, "scaling_governor", "performance\n"),
        (cpufreq, "scaling_cur_freq", "2600000\n"),
    ):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(value, encoding="utf-8")
    assert power_state() == PowerState(governor="performance", cpu_mhz=2600.0)
    now = iter([10.0, 12.0])
    monkeypatch.setattr(power.time, "monotonic", lambda: next(now))
    with PowerMeter(rapl) as meter:
        (rapl / "energy_uj").write_text("4000000", encoding="utf-8")  # it began again: 5 J in 2 s
    assert meter.watts == 2.5
