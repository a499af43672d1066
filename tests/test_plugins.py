"""Entry points by name: listed without importing, loaded strictly, missing ones explained."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dyslctl import plugins
from dyslctl.errors import ConfigError, PluginError
from dyslctl.plugins import BACKBONES, SUITES
from dyslctl.suite import TaskSuite

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """``install(module_text, backbone="fake:Fake")``: a distribution ``fake-plugin 1.2``, as pip would leave it."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def write(module: str, **entry_points: str) -> None:
        (tmp_path / "fake_plugin_module.py").write_text(module)
        info = tmp_path / "fake_plugin-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-plugin\nVersion: 1.2\n")
        sections = [f"[dyslctl.{group}]\nfake = {target}\n" for group, target in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(sections))
        monkeypatch.delitem(sys.modules, "fake_plugin_module", raising=False)

    return write


def test_listing_imports_no_plugin(install: Install) -> None:
    install("raise RuntimeError('imported')", backbones="fake_plugin_module:Fake")
    (info,) = [info for info in plugins.installed(BACKBONES) if info.name == "fake"]
    assert (info.target, info.distribution, info.version) == ("fake_plugin_module:Fake", "fake-plugin", "1.2")
    assert "fake_plugin_module" not in sys.modules


def test_names_are_sorted(install: Install) -> None:
    install("", suites="fake_plugin_module:Fake")
    names = plugins.names(SUITES)
    assert names == sorted(names)
    assert {"fake", "tabletop_chain", "tabletop_object", "tabletop_spatial"} <= set(names)


def test_a_plugin_that_does_not_import_is_a_plugin_error(install: Install) -> None:
    install("raise RuntimeError('needs CUDA 99')", backbones="fake_plugin_module:Fake")
    with pytest.raises(PluginError, match=r"'fake' .*does not import: RuntimeError: needs CUDA 99") as caught:
        plugins.load_backbone("fake")
    assert caught.value.exit_code == 3
    assert caught.value.hint is not None and "dyslctl doctor" in caught.value.hint


def test_a_missing_attribute_is_a_plugin_error(install: Install) -> None:
    install("", backbones="fake_plugin_module:Fake")
    with pytest.raises(PluginError, match="AttributeError"):
        plugins.load_backbone("fake")


@pytest.mark.parametrize("module", ["class Fake: pass", "Fake = 3"])
def test_another_type_is_a_plugin_error(install: Install, module: str) -> None:
    install(module, backbones="fake_plugin_module:Fake")
    with pytest.raises(PluginError, match="backbone 'fake': expected a subclass of Backbone, found"):
        plugins.load_backbone("fake")


def test_a_suite_is_no_backbone(install: Install) -> None:
    install("from dyslctl.suite import TaskSuite as Fake", backbones="fake_plugin_module:Fake")
    with pytest.raises(PluginError, match="expected a subclass of Backbone"):
        plugins.load_backbone("fake")


@pytest.mark.parametrize("name", ["tabletop_object", "tabletop_spatial", "tabletop_chain"])
def test_a_suite_comes_ready_to_use(name: str) -> None:
    suite = plugins.load_suite(name)
    assert isinstance(suite, TaskSuite)
    assert suite.name == name


def test_an_unknown_name_gets_the_nearest_one_and_the_list() -> None:
    with pytest.raises(ConfigError) as caught:
        plugins.load_suite("tabletop_objects")
    assert caught.value.exit_code == 2
    assert "no task suite named 'tabletop_objects'. Did you mean 'tabletop_object'?" in caught.value.message
    assert "installed: " in caught.value.message and "tabletop_chain" in caught.value.message
    assert caught.value.hint == "dyslctl plugins lists what is installed"


def test_a_name_like_no_other_gets_no_guess() -> None:
    with pytest.raises(ConfigError) as caught:
        plugins.load_backbone("xyzzy")
    assert "Did you mean" not in caught.value.message


def test_a_published_plugin_that_is_missing_comes_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: [])
    with pytest.raises(ConfigError, match="installed: none") as caught:
        plugins.load_backbone("openvla-oft")
    assert caught.value.hint == "pip install dyslctl-openvla-oft"
