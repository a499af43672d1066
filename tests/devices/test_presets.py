"""The presets parse strictly, say where each number is from, and recognise their machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dyslctl.devices import host, presets
from dyslctl.devices.presets import DevicePresets, find_device, live_device, load_presets
from dyslctl.errors import ArtifactError, ConfigError


def pretend(monkeypatch: pytest.MonkeyPatch, board_file: Path, gpu: str | None, board: str | None) -> None:
    monkeypatch.setattr(presets, "BOARD_FILE", board_file)
    if board is not None:
        board_file.write_bytes(board.encode() + b"\0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: gpu)


@pytest.mark.parametrize(
    ("gpu", "board", "expected"),
    [
        (None, None, None),
        ("NVIDIA H200", None, "h200"),
        ("NVIDIA H200 NVL", None, None),
        ("NVIDIA GeForce RTX 4090", None, "rtx4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None),
        ("NVIDIA RTX 6000 Ada Generation", None, None),
        ("Orin", "NVIDIA Jetson AGX Orin Developer Kit", "orin"),
        ("Orin", "NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "orin-nx"),
        ("Orin", "NVIDIA Jetson Orin Nano Developer Kit", None),
        ("Orin", None, "orin"),
        ("NVIDIA H200", "some ARM server board", "h200"),
    ],
)
def test_live_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpu: str | None, board: str | None, expected: str | None
) -> None:
    pretend(monkeypatch, tmp_path / "model", gpu, board)
    assert live_device() == expected


def test_every_promised_device_is_there() -> None:
    assert list(load_presets().devices) == ["orin", "orin-nx", "a6000", "rtx4090", "rtx3090", "a800", "h100", "h200"]


def test_unknown_device_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no device named 'orinn'. Did you mean 'orin'") as caught:
        find_device("orinn")
    assert caught.value.exit_code == 2 and caught.value.hint is not None


def test_a_calibration_must_name_a_known_model() -> None:
    content = {"schema": "dyslctl.devices/1", **load_presets().model_dump(mode="json")}
    content["devices"]["orin"]["stacks"]["graph"]["calibration"]["model"] = "other"
    with pytest.raises(ArtifactError, match="no model 'other'"):
        DevicePresets.parse(content, "mine.yaml")


def test_an_unknown_key_is_an_error() -> None:
    content = {"schema": "dyslctl.devices/1", **load_presets().model_dump(mode="json")}
    content["devices"]["orin"]["peak_tflop"] = content["devices"]["orin"].pop("peak_tflops")
    with pytest.raises(ArtifactError, match=r"devices\.orin\.peak_tflops: missing"):
        DevicePresets.parse(content, "mine.yaml")


@pytest.mark.parametrize(
    ("content", "expected"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("50000 100000\n", 0.5)]
)
def test_cgroup_v2_quota(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, expected: float | None) -> None:
    (tmp_path / "cpu.max").write_text(content)
    monkeypatch.setattr(host, "CGROUP_V2", tmp_path / "cpu.max")
    assert host.cpu_quota() == expected


def test_cgroup_v1_quota(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "CGROUP_V2", tmp_path / "absent")
    monkeypatch.setattr(host, "CGROUP_V1", tmp_path)
    assert host.cpu_quota() is None
    (tmp_path / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    assert host.cpu_quota() is None
    (tmp_path / "cpu.cfs_quota_us").write_text("250000\n")
    assert host.cpu_quota() == 2.5


@pytest.mark.parametrize(("affinity", "quota", "expected"), [(8, None, 8), (8, 1.5, 2), (2, 6.0, 2), (4, 0.3, 1)])
def test_usable_cpus(monkeypatch: pytest.MonkeyPatch, affinity: int, quota: float | None, expected: int) -> None:
    monkeypatch.setattr(host, "_affinity", lambda: affinity)
    monkeypatch.setattr(host, "cpu_quota", lambda: quota)
    assert host.usable_cpus() == expected
