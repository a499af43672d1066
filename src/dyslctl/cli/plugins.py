"""``dyslctl plugins``: what is installed, from package metadata alone."""

from __future__ import annotations

from typing import Any

from dyslctl import plugins as registry
from dyslctl.cli.options import AsJson, Debug
from dyslctl.cli.output import show


def plugins(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the installed backbones and task suites.

    From package metadata: none of them is imported.
    """
    document = {
        "schema": "dyslctl.plugins/1",
        "backbones": _rows(registry.BACKBONES),
        "suites": _rows(registry.SUITES),
    }
    show(document, as_json=as_json)


def _rows(group: str) -> list[dict[str, Any]]:
    found = registry.installed(group)
    return [
        {
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            # Two distributions may claim one name; which of them is loaded would then be chance.
            "status": "ok" if [other.name for other in found].count(plugin.name) == 1 else "duplicate",
            "target": plugin.target,
        }
        for plugin in found
    ]
