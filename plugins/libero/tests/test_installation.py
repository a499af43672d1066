"""What is missing, and LIBERO's configuration file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from dyslctl_libero import installation
from dyslctl_libero.settings import Settings

from dyslctl.errors import NotInstalled

PINS = {"bddl": "1.0.1", "hf-libero": "0.1.4", "mujoco": "3.3.2", "robosuite": "1.4.0"}


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine that has everything; the folder of LIBERO's task definitions."""
    (tmp_path / "libero" / "bddl_files").mkdir(parents=True)
    monkeypatch.setattr(installation, "_version", lambda name: PINS.get(name, "99.0"))
    monkeypatch.setattr(installation, "version", lambda name: PINS[name])
    monkeypatch.setattr(installation, "_root", lambda: tmp_path / "libero")
    monkeypatch.setattr(installation.ctypes.util, "find_library", lambda name: f"lib{name}.so")
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "LIBERO_CONFIG_PATH"):
        monkeypatch.setenv(name, "")  # put back afterwards
    return tmp_path / "libero"


def test_every_line_of_the_list_is_a_requirement() -> None:
    lines = [line for line in installation.REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert pinned == PINS
    assert all(">=" in line or "==" in line for line in lines)
    assert not any(line.startswith(("torch", "numpy", "robomimic", "transformers")) for line in lines)


def test_a_complete_machine_lacks_nothing(complete: Path) -> None:
    assert installation.missing_packages() == []
    assert installation.missing_library("osmesa") == installation.missing_library("egl") == []


def test_missing_packages_are_all_named(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {**PINS, "mujoco": "3.9.0", "robosuite": None}
    monkeypatch.setattr(installation, "_version", lambda name: found.get(name, "99.0"))
    assert installation.missing_packages() == [
        "mujoco: expected ==3.3.2, found 3.9.0",
        "robosuite: expected ==1.4.0, found none",
    ]


def test_whatever_is_missing_is_one_error(
    complete: Path, settings: Settings, scene_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "_version", lambda name: None if name == "bddl" else PINS.get(name, "99.0"))
    monkeypatch.setattr(installation.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(NotInstalled) as caught:
        installation.prepare(replace(settings, assets=scene_files))
    assert "bddl: expected ==1.0.1, found none" in caught.value.message
    assert "libOSMesa for MUJOCO_GL=osmesa: apt-get install -y libosmesa6" in caught.value.message
    assert caught.value.hint == "python -m dyslctl_libero setup"


def test_a_prepared_process_asks_no_question(
    complete: Path, settings: Settings, scene_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = installation.prepare(replace(settings, assets=scene_files))
    assert found.versions == {"mujoco": "3.3.2", "robosuite": "1.4.0", "hf-libero": "0.1.4"}
    assert (found.root, found.assets, found.graphics) == (complete, scene_files, "osmesa")
    folder = Path(installation.os.environ["LIBERO_CONFIG_PATH"])
    assert folder == settings.cache / "config"
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {
        "benchmark_root": str(complete),
        "bddl_files": str(complete / "bddl_files"),
        "init_states": str(complete / "init_files"),
        "datasets": str(folder / "datasets"),
        "assets": str(scene_files),
    }
    assert installation.os.environ["MUJOCO_GL"] == installation.os.environ["PYOPENGL_PLATFORM"] == "osmesa"


def test_the_configuration_is_written_only_when_it_changes(tmp_path: Path) -> None:
    path = installation.write_config(tmp_path / "config", tmp_path, tmp_path / "a") / "config.yaml"
    before = path.stat().st_ino
    installation.write_config(tmp_path / "config", tmp_path, tmp_path / "a")
    assert path.stat().st_ino == before
    installation.write_config(tmp_path / "config", tmp_path, tmp_path / "b")
    assert yaml.safe_load(path.read_text())["assets"] == str(tmp_path / "b")


@pytest.mark.parametrize(
    ("wanted", "gpu", "chosen"),
    [
        ("", False, "osmesa"),
        ("", True, "egl"),
        ("OSMesa", True, "osmesa"),
        ("egl", False, "egl"),
        ("glfw", False, "osmesa"),
    ],
)
def test_the_renderer_follows_the_wish_then_the_machine(
    wanted: str, gpu: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", wanted)
    monkeypatch.setattr(installation.torch.cuda, "is_available", lambda: gpu)
    assert installation.choose_graphics() == chosen
