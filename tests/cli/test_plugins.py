from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from dyslctl import plugins
from dyslctl.cli import app
from dyslctl.plugins import PluginInfo


def test_the_installed_plugins_are_listed() -> None:
    result = CliRunner().invoke(app, ["plugins", "--json"])
    document = json.loads(result.stdout)
    assert list(document) == ["schema", "backbones", "suites"] and document["schema"] == "dyslctl.plugins/1"
    assert {"name", "distribution", "version", "status"} <= set(document["suites"][0])
    assert {"tabletop_chain", "tabletop_object", "tabletop_spatial"} <= {suite["name"] for suite in document["suites"]}


def test_a_name_claimed_twice_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = [PluginInfo("x", "a:A", "one", "1"), PluginInfo("x", "b:B", "two", "1"), PluginInfo("y", "c:C", "two", "1")]
    monkeypatch.setattr(plugins, "installed", lambda group: twice)
    rows = json.loads(CliRunner().invoke(app, ["plugins", "--json"]).stdout)["backbones"]
    assert [row["status"] for row in rows] == ["duplicate", "duplicate", "ok"]
