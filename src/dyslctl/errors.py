"""One error family. Each class is one exit code, so a script can tell what kind of thing went wrong."""

from __future__ import annotations


class DyslctlError(Exception):
    """Base of every error the tool raises on purpose.

    Args:
        message: What was expected, what was found, and where, in one or a few lines.
        hint: What to do about it, usually a command. Shown on its own line.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  hint: {self.hint}"


class ConfigError(DyslctlError):
    """The command line or a configuration value is wrong."""

    exit_code = 2


class PluginError(DyslctlError):
    """A plugin is missing, does not load, or breaks its contract."""

    exit_code = 3


class EnvironmentMismatch(DyslctlError):
    """The machine or an installed package is not what the work needs (disk, device, library build)."""

    exit_code = 3


class NotInstalled(EnvironmentMismatch):
    """An optional part is not on this machine: nothing is broken, but what needs it does not run."""


class ArtifactError(DyslctlError):
    """A file is missing, damaged, of another schema, or does not belong to the others."""

    exit_code = 4


class ThresholdNotMet(DyslctlError):
    """``--fail-if`` or ``--max-regress``: the command worked, the result is not good enough."""

    exit_code = 5
