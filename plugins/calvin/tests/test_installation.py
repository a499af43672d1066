"""What is missing, and the commands that bring it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from dyslctl_calvin import installation
from dyslctl_calvin.installation import COMMIT, FILES, REPOSITORY
from dyslctl_calvin.settings import Settings

from dyslctl.errors import EnvironmentMismatch, NotInstalled

FOUND = {"gym": "0.26.2", "pybullet": "3.2.7"}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a checkout, on a machine that has all packages."""
    for name in ("calvin_env/__init__.py", *FILES):
        path = tmp_path / "calvin_env" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    monkeypatch.setattr(installation, "_version", lambda name: FOUND.get(name, "99.0"))
    monkeypatch.setattr(installation, "version", lambda name: FOUND[name])
    monkeypatch.setattr(installation, "_installed", lambda: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path / "calvin_env"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache=tmp_path / "cache")


def test_every_line_of_the_list_is_a_requirement() -> None:
    lines = [line for line in installation.REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    assert all("==" in line or ">=" in line for line in lines)
    assert dict(line.split("==") for line in lines if "==" in line) == FOUND
    assert not any(line.startswith(("torch", "numpy>", "numpy=")) for line in lines)


def test_a_checkout_of_the_settings_is_imported(checkout: Path, settings: Settings) -> None:
    found = installation.prepare(replace(settings, checkout=checkout))
    assert (found.root, found.pybullet, len(found.fingerprint)) == (checkout, "3.2.7", 12)
    assert sys.path[0] == str(checkout)
    installation.prepare(replace(settings, checkout=checkout))
    assert sys.path.count(str(checkout)) == 1


def test_the_fingerprint_is_over_code_configuration_and_scenes(checkout: Path, tmp_path: Path) -> None:
    before = installation._fingerprint(checkout)
    (checkout / "README.md").write_text("another")
    installation._fingerprint.cache_clear()
    assert installation._fingerprint(checkout) == before
    (checkout / FILES[0]).write_text("another")
    installation._fingerprint.cache_clear()
    assert installation._fingerprint(checkout) != before


def test_without_a_checkout_the_commands(checkout: Path, settings: Settings) -> None:
    with pytest.raises(NotInstalled, match=f"calvin_env: expected a checkout of {REPOSITORY}, found none") as caught:
        installation.prepare(settings)
    hint = caught.value.hint or ""
    assert f"git clone {REPOSITORY}" in hint and COMMIT[:7] in hint and "pip install --no-deps -e" in hint
    assert f"pip install -r {installation.REQUIREMENTS}" in hint


def test_whatever_is_missing_is_one_error(checkout: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"gym": None, "pybullet": "3.0.0", "opencv-python-headless": None}
    monkeypatch.setattr(installation, "_version", lambda name: found.get(name, "99.0"))
    with pytest.raises(NotInstalled) as caught:
        installation.prepare(replace(settings, checkout=checkout))
    assert "gym: expected ==0.26.2, found none" in caught.value.message
    assert "pybullet: expected ==3.2.7, found 3.0.0" in caught.value.message
    assert "opencv" not in caught.value.message  # another distribution brings the module
    assert caught.value.hint == f"pip install -r {installation.REQUIREMENTS}"


def test_half_a_checkout_is_refused(checkout: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / FILES[-1]).unlink()
    with pytest.raises(EnvironmentMismatch, match=rf"DYSLCTL_CALVIN_ENV=.* lacks {FILES[-1]}"):
        installation.prepare(replace(settings, checkout=checkout))
    monkeypatch.setattr(installation, "_installed", lambda: checkout)
    with pytest.raises(EnvironmentMismatch, match=f"the installed package in {checkout} lacks"):
        installation.prepare(settings)
    monkeypatch.setattr(installation, "_installed", lambda: checkout.parent)
    with pytest.raises(EnvironmentMismatch, match=r"lacks calvin_env/__init__\.py|lacks conf"):
        installation.prepare(settings)


def test_a_folder_of_that_name_is_not_the_package(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder in which the checkout was cloned: Python takes the checkout itself for the package there."""
    (tmp_path / "calvin_env").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "calvin_env", raising=False)
    with pytest.raises(EnvironmentMismatch, match=r"found the folder .*calvin_env, which hides it") as caught:
        installation.locate(settings)
    assert caught.value.hint is not None and "export DYSLCTL_CALVIN_ENV=" in caught.value.hint
