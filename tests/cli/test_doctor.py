from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from dyslctl import plugins
from dyslctl.cli import app, checks
from dyslctl.errors import EnvironmentMismatch, NotInstalled, PluginError


@pytest.fixture
def doctor(
    tiny_backbone: type, tiny_suite: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "names", lambda group: ["tiny" if group == plugins.BACKBONES else "tiny_reach"])
    monkeypatch.setattr(plugins, "load_backbone", lambda name: tiny_backbone)
    monkeypatch.setattr(plugins, "load_suite", lambda name: tiny_suite())
    return lambda *arguments: CliRunner().invoke(app, ["doctor", *arguments])


def _statuses(result: Result) -> dict[str, str]:
    document = json.loads(result.stdout)
    assert list(document) == ["schema", "checks"] and document["schema"] == "dyslctl.doctor/1"
    assert all(set(check) == {"name", "status", "detail", "fix"} for check in document["checks"])
    return {check["name"]: check["status"] for check in document["checks"]}


def test_a_healthy_machine(doctor: Callable[..., Result], tmp_path: Path) -> None:
    result = doctor("--json")
    assert result.exit_code == 0, result.stderr
    assert list(_statuses(result)) == [
        "python", "torch", "threads", "transformers", "disk space", "run folder", "backbone tiny", "suite tiny_reach",
    ]  # fmt: skip
    assert "fail" not in _statuses(result).values()
    assert list(tmp_path.iterdir()) == []  # doctor leaves nothing behind


def test_a_plugin_that_does_not_import_fails_its_check_alone(
    doctor: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> None:
        raise PluginError("does not import", hint="reinstall it")

    monkeypatch.setattr(plugins, "load_backbone", broken)
    result = doctor("--json")
    assert result.exit_code == 3
    failed = [check for check in json.loads(result.stdout)["checks"] if check["status"] == "fail"]
    assert [(check["name"], check["fix"]) for check in failed] == [("backbone tiny", "reinstall it")]
    assert "does not import" in failed[0]["detail"]
    assert "backbone tiny" in result.stderr


def test_a_simulator_that_is_not_installed_is_a_warning_with_its_command(
    doctor: Callable[..., Result], tiny_suite: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(self: object) -> None:
        raise NotInstalled("no simulator", hint="install it so")

    monkeypatch.setattr(tiny_suite, "make", missing)
    result = doctor("--json")
    assert result.exit_code == 0
    (check,) = [check for check in json.loads(result.stdout)["checks"] if check["name"] == "suite tiny_reach"]
    assert (check["status"], check["detail"], check["fix"]) == ("warn", "no simulator", "install it so")


def test_what_a_simulator_says_of_itself_is_shown(
    doctor: Callable[..., Result], tiny_suite: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_suite, "identity", lambda self: {"physics": "3.3.2", "renderer": "exact"})
    (check,) = [check for check in json.loads(doctor("--json").stdout)["checks"] if check["name"] == "suite tiny_reach"]
    assert check["status"] == "ok" and "physics 3.3.2, renderer exact" in check["detail"]


def test_a_simulator_that_would_play_something_else_is_a_failed_check(
    doctor: Callable[..., Result], tiny_suite: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(self: object) -> None:
        raise EnvironmentMismatch("another picture")

    monkeypatch.setattr(tiny_suite, "identity", other)
    assert _statuses(doctor("--json"))["suite tiny_reach"] == "fail"


def test_a_crash_inside_a_check_is_a_failed_check(
    doctor: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(name: str) -> None:
        raise RuntimeError("no display")

    monkeypatch.setattr(plugins, "load_suite", crash)
    assert _statuses(doctor("--json"))["suite tiny_reach"] == "fail"


def test_another_picture_is_noticed(doctor: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checks.GOLDEN_FRAMES, "tiny_reach", (200.0, 0.0, 0.0))
    assert _statuses(doctor("--json"))["suite tiny_reach"] == "fail"


def test_an_empty_picture_is_noticed(
    doctor: Callable[..., Result], tiny_suite: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = type(tiny_suite().make())
    monkeypatch.setattr(environment, "render", lambda self: np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(environment, "_observe", lambda self: None)
    assert _statuses(doctor("--json"))["suite tiny_reach"] == "fail"


def test_too_many_threads_come_with_the_number_to_use(
    doctor: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dyslctl.devices.host.usable_cpus", lambda: 0)
    (check,) = [check for check in json.loads(doctor("--json").stdout)["checks"] if check["name"] == "threads"]
    assert check["status"] == "warn" and "OMP_NUM_THREADS=0" in check["fix"]


def test_an_unwritable_run_folder_is_a_failed_check(
    doctor: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checks.tempfile, "TemporaryFile", refuse)
    assert _statuses(doctor("--json"))["run folder"] == "fail"


def test_the_table_says_what_to_do(doctor: Callable[..., Result]) -> None:
    output = doctor().stdout
    assert "what to do" in output and "run folder" in output
