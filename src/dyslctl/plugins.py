"""Entry points: backbones and task suites by name. Listing imports nothing; only the chosen one is loaded."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from dyslctl.errors import ConfigError, PluginError

if TYPE_CHECKING:  # both import torch, which neither a listing nor the shell's completion should wait for
    from dyslctl.backbone import Backbone
    from dyslctl.suite import TaskSuite

BACKBONES = "dyslctl.backbones"
SUITES = "dyslctl.suites"
KNOWN_DISTRIBUTIONS = {
    "calvin_abc": "dyslctl-calvin",
    "calvin_d": "dyslctl-calvin",
    "calvin_d_fixtures": "dyslctl-calvin",
    "libero_10": "dyslctl-libero",
    "libero_goal": "dyslctl-libero",
    "libero_object": "dyslctl-libero",
    "libero_spatial": "dyslctl-libero",
    "openvla": "dyslctl-openvla-oft",
    "openvla-oft": "dyslctl-openvla-oft",
    "roboflamingo": "dyslctl-roboflamingo",
}
"""Plugins we publish ourselves, so that a missing one comes with its install line."""


@dataclass(frozen=True)
class PluginInfo:
    """An installed plugin, known by its metadata alone."""

    name: str
    target: str
    distribution: str
    version: str


def installed(group: str) -> list[PluginInfo]:
    """The plugins of ``group``, sorted by name; none of them is imported."""
    return sorted((_info(entry) for entry in entry_points(group=group)), key=lambda info: info.name)


def names(group: str) -> list[str]:
    """Their names alone."""
    return [info.name for info in installed(group)]


def load_backbone(name: str) -> type[Backbone]:
    """The backbone class called ``name``."""
    from dyslctl.backbone import Backbone

    loaded: type[Backbone] = _load(BACKBONES, name, Backbone)
    return loaded


def load_suite(name: str) -> TaskSuite:
    """The task suite called ``name``, ready to use."""
    from dyslctl.suite import TaskSuite

    suite: TaskSuite = _load(SUITES, name, TaskSuite)()
    return suite


def did_you_mean(name: str, known: list[str]) -> str:
    """``" Did you mean 'x'?"`` or nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def _info(entry: EntryPoint) -> PluginInfo:
    dist = entry.dist
    return PluginInfo(entry.name, entry.value, dist.name if dist else "?", dist.version if dist else "?")


def _load(group: str, name: str, base: type) -> Any:
    kind = "backbone" if group == BACKBONES else "task suite"
    found = {entry.name: entry for entry in entry_points(group=group)}
    if name not in found:
        known = sorted(found)
        distribution = KNOWN_DISTRIBUTIONS.get(name)
        raise ConfigError(
            f"no {kind} named '{name}'.{did_you_mean(name, known)}\n  installed: {', '.join(known) or 'none'}",
            hint=f"pip install {distribution}" if distribution else "dyslctl plugins lists what is installed",
        )
    try:
        loaded = found[name].load()
    except Exception as error:
        raise PluginError(
            f"{kind} '{name}' ({found[name].value}) does not import: {type(error).__name__}: {error}",
            hint="dyslctl doctor checks the environment",
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise PluginError(f"{kind} '{name}': expected a subclass of {base.__name__}, found {loaded!r}")
    return loaded
