"""The recorded episodes that the section ``data`` names, as sources and in the place of a task suite."""

from __future__ import annotations

from dataclasses import replace

from dyslctl.cli.workspace import Workspace
from dyslctl.data.open import open_source
from dyslctl.data.replay import RecordedSuite
from dyslctl.data.source import DemonstrationSource
from dyslctl.errors import ConfigError
from dyslctl.jobs.recipe import check_horizon, horizon_hint


def recorded_source(workspace: Workspace) -> DemonstrationSource | None:
    """The episodes, if there are any to be used instead of the suite.

    Raises:
        ArtifactError: If they cannot be read.
        ConfigError: If their actions are not the backbone's, more are to be executed than it predicts, or the name or
            the column mapping is not known.
        EnvironmentMismatch: If a package of the extra ``data`` is missing.
    """
    settings, spec = workspace.config.data, workspace.backbone.load().spec
    if settings.path is None:
        return None
    source = open_source(settings.path, settings.map)
    horizon = workspace.config.execute_horizon or source.execute_horizon
    if horizon is not None:
        check_horizon(horizon, spec)
    if source.action_dim != spec.action_dim:
        raise ConfigError(
            f"{source.name}: the backbone's actions have {spec.action_dim} dimensions, the recorded ones "
            f"{source.action_dim}",
            hint="--data-map names the column of the actions",
        )
    return source


def recorded_suite(workspace: Workspace, trained_for: int | None = None) -> RecordedSuite | None:
    """The same, as a suite.

    Args:
        workspace: With the settings.
        trained_for: Actions that trained exits were told would be executed; ``None``: there are none yet.

    Raises:
        ArtifactError: As :func:`recorded_source`.
        ConfigError: Likewise, and if nobody said how many actions are executed before the next inference.
        EnvironmentMismatch: Likewise.
    """
    source = recorded_source(workspace)
    if source is None:
        return None
    spec = workspace.backbone.load().spec
    horizon = workspace.config.execute_horizon or trained_for or source.execute_horizon
    if horizon is None and spec.chunk_length == 1:
        horizon = 1  # there is no other
    if horizon is None:
        raise ConfigError(
            "recorded episodes do not say how many actions are executed before the next inference, and it is not "
            "guessed",
            hint=horizon_hint(spec),
        )
    if trained_for not in (None, horizon):
        raise ConfigError(
            f"execute_horizon is {horizon}, but the exits were trained for {trained_for}",
            hint=f"--execute-horizon {trained_for}, or distill anew",
        )
    return RecordedSuite(source, horizon, workspace.config.seed)


def trained_suite(workspace: Workspace, trained_for: int | None) -> RecordedSuite | None:
    """:func:`recorded_suite` for what is trained already: exits stand above what the run was told before.

    Raises:
        ArtifactError: As :func:`recorded_suite`.
        ConfigError: Likewise.
        EnvironmentMismatch: Likewise.
    """
    return recorded_suite(_executing(workspace, trained_for or workspace.config.execute_horizon))


def as_recorded(workspace: Workspace, source: DemonstrationSource | None) -> Workspace:
    """``workspace``, executing as many actions as ``source`` says, if nobody else said it."""
    horizon = None if source is None else source.execute_horizon
    return _executing(workspace, workspace.config.execute_horizon or horizon)


def _executing(workspace: Workspace, horizon: int | None) -> Workspace:
    return replace(workspace, config=workspace.config.model_copy(update={"execute_horizon": horizon}))
