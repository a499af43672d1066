"""What a command works on: a run directory, the merged configuration, and the backbone and suite they name."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyslctl import methods, plugins
from dyslctl.artifacts.files import atomic_write, write_json
from dyslctl.artifacts.fingerprint import environment
from dyslctl.artifacts.lock import locked
from dyslctl.artifacts.run_dir import RunDirectory, RunManifest, open_run, place_run, save_start
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.artifacts.strict_yaml import dump_yaml
from dyslctl.cli.config import Config, Layer, merge, parse_set, read_config
from dyslctl.devices.host import usable_cpus
from dyslctl.errors import ArtifactError, ConfigError
from dyslctl.jobs.distributed import leads
from dyslctl.jobs.recipe import BackboneRecipe, PolicyRecipe, check_horizon
from dyslctl.suite import TaskSuite


@dataclass(frozen=True)
class Workspace:
    """A run, opened with one command's settings."""

    run: RunDirectory
    config: Config
    backbone: BackboneRecipe
    suite: TaskSuite

    def policies(self, names: Iterable[str]) -> PolicyRecipe:
        """How to make the policies of ``names`` in this run.

        The trained modules are loaded here once, so that damaged ones leave the files of an earlier result alone.

        Raises:
            ArtifactError: If the trained modules are missing, damaged, or belong to another profile or backbone.
            ConfigError: If there is no such method.
        """
        recipe = PolicyRecipe(
            backbone=self.backbone,
            skip_profile=self.run.skip_profile,
            bundles={name: self.run.bundle(name) for name in methods.bundles(names)},
            execute_horizon=self.suite.execute_horizon,
            seed=self.config.seed,
            pruning=self.config.pruning.settings(),
        )
        recipe.assets()
        return recipe

    def require_upstream(self, command: str) -> None:
        """``command`` learns from the layers, which must be the upstream ones.

        Raises:
            ConfigError: If they run on another backend.
        """
        if self.config.model.backend != "eager":
            raise ConfigError(
                f"{command} reads the upstream layers: expected model.backend=eager, found {self.config.model.backend}",
                hint="eval, bench, calibrate and load_policy take a backend",
            )

    @contextmanager
    def training(self) -> Iterator[None]:
        """Keep other trainings of this run out; of processes that train together, the leader speaks for all.

        Raises:
            EnvironmentMismatch: If the run is being trained.
        """
        if not leads():
            yield
            return
        with locked(self.run.training_lock, f"{self.run.path} is being trained", "train in another run (--run)"):
            yield

    def start(self) -> None:
        """Create the run, or enter it again with this backbone and suite, and make it the current one.

        Raises:
            EnvironmentMismatch: If it cannot be written.
        """
        backbone = self.backbone
        save_start(
            self.run, RunManifest.now(backbone.plugin, backbone.checkpoint, self.suite.name, self.config.model.revision)
        )

    def keep(self, command: str, document: dict[str, Any], folder: Path) -> None:
        """Write the result, and the configuration that led to it, into the run.

        Raises:
            EnvironmentMismatch: If they cannot be written.
        """
        profile_hash = SkipProfile.load(self.run.skip_profile).hash
        made_with = {"command": command_line(), "environment": environment().as_dict(), "profile_hash": profile_hash}
        stored = {**document, **made_with}
        write_json(folder / "result.json", stored)
        save_config(self.run, command, self.config)


def enter(run_name: str | None, layers: Sequence[Layer]) -> Workspace:
    """Open an existing run; its backbone and suite lie below ``layers``.

    Raises:
        ConfigError: If there is no such run, or a setting is wrong.
        ArtifactError: If the run's files are damaged.
        PluginError: If a plugin does not load.
    """
    run = open_run(run_name)
    return _workspace(run, _resolved(merge([*_layers_below(run), *layers])))


def begin(run_name: str | None, layers: Sequence[Layer]) -> Workspace:
    """A run to start, or to enter again, with the backbone that ``layers`` name (default: go on with the current run).

    Nothing is written before :meth:`Workspace.start`: what cannot be profiled leaves an old run as it was.

    Raises:
        ConfigError: If no backbone is named and there is no current run, a setting is wrong, or the run holds what was
            trained for another checkpoint.
        ArtifactError: If the checkpoint is missing or damaged.
        PluginError: If a plugin does not load.
    """
    config = merge(layers)
    run = place_run(run_name) if run_name is not None else None
    if config.model.name is None:
        run = open_run(run_name)
        config = merge([*_layers_below(run), *layers])
    if config.model.name is None:
        raise ConfigError("expected a backbone, found none", hint="dyslctl plugins lists them")
    config = _resolved(config)
    recipe = _recipe(config)
    run = run or place_run(recipe.plugin)
    _keep_apart(run, recipe)
    spec, suite = recipe.load().spec, load_suite(config, recipe)
    if config.execute_horizon is None and config.data.path is None and suite.execute_horizon > spec.chunk_length:
        # The suite's number is that of the models it was made for, and this one predicts fewer actions.
        config = config.model_copy(update={"execute_horizon": spec.chunk_length})
        suite = suite.executing(spec.chunk_length)
    check_horizon(config.execute_horizon or 1, spec)
    model = config.model.model_copy(update={"revision": spec.commit or recipe.revision})
    return Workspace(run, config.model_copy(update={"model": model}), recipe, suite)


def _keep_apart(run: RunDirectory, recipe: BackboneRecipe) -> None:
    """What was trained for other weights is not left to these; a run whose profile is damaged may start anew."""
    if not run.bundles():
        return
    with suppress(ArtifactError):
        of, fingerprint = SkipProfile.load(run.skip_profile).backbone, recipe.load().spec.fingerprint
        if of.fingerprint != fingerprint:
            raise ConfigError(
                f"{run.path} holds what was trained for other weights: those of {of.checkpoint} ({of.fingerprint}), "
                f"not of {recipe.checkpoint} ({fingerprint})",
                hint=f"--run NAME starts another run; or remove {run.path / 'bundles'}",
            )


def layers_of(config_file: Path | None, sets: Sequence[str] | None, flags: Layer) -> list[Layer]:
    """The layers that the user gave, weakest first."""
    files = [read_config(config_file)] if config_file is not None else []
    return [*files, *map(parse_set, sets or ()), flags]


def save_config(run: RunDirectory, command: str, config: Config) -> None:
    """Keep the merged configuration of ``command`` in the run.

    Raises:
        EnvironmentMismatch: If it cannot be written.
    """
    text = dump_yaml(config.model_dump(mode="json"), f"The merged configuration of: {command_line()}\n")
    atomic_write(run.path / "config" / f"{command}.yaml", text)


def command_line() -> str:
    """What the user typed, for the artifacts."""
    return shlex.join(["dyslctl", *sys.argv[1:]])


def _layers_below(run: RunDirectory) -> list[Layer]:
    """The run's backbone, suite, data and horizon, as ``profile`` was told; later commands must load them alike."""
    manifest = run.manifest()
    identity = {
        "model": {"name": manifest.backbone, "checkpoint": manifest.checkpoint, "revision": manifest.revision},
        "suite": manifest.suite,
    }
    kept = {section: run.told(section) for section in ("model", "data")}
    told = {**kept, "execute_horizon": run.execute_horizon()}
    return [("the run's manifest", identity), (str(run.profile_config), told)]


def _resolved(config: Config) -> Config:
    """``config`` with full paths where it names files or folders that are here: the run is used from elsewhere too."""
    model = config.model.model_copy(update={"checkpoint": _full_path(config.model.checkpoint)})
    own_map = str(config.data.map or "").endswith((".yaml", ".yml"))  # others are presets, whatever folders are here
    columns = _full_path(config.data.map) if own_map else config.data.map
    data = config.data.model_copy(update={"path": _full_path(config.data.path), "map": columns})
    return config.model_copy(update={"model": model, "data": data})


def _full_path(name: str | None) -> str | None:
    """``name``, unless something of that name exists: a Hub id or a preset stays as it is."""
    path = Path(name or "").expanduser()
    return str(path.resolve()) if name and path.exists() else name


def _workspace(run: RunDirectory, config: Config) -> Workspace:
    recipe = _recipe(config)
    return Workspace(run, config, recipe, load_suite(config, recipe))


def with_subtasks(suite: TaskSuite, count: int) -> int:
    """Episodes of ``suite`` that have ``count`` subtasks: what is taken unless told otherwise, for a chain is long."""
    return max(1, count // suite.max_score)


def load_suite(config: Config, recipe: BackboneRecipe, name: str | None = None) -> TaskSuite:
    """The suite ``name``, by default that of ``config``, else the checkpoint's; it executes as many actions as told.

    Raises:
        PluginError: If it does not load.
    """
    asked = name or config.suite or _suite_of(config, recipe)
    suite = plugins.load_suite(asked)
    return suite if config.execute_horizon is None else suite.executing(config.execute_horizon)


def _suite_of(config: Config, recipe: BackboneRecipe) -> str:
    """What the checkpoint was trained on, which need not be installed where recorded episodes stand in for it."""
    backbone = plugins.load_backbone(recipe.plugin)
    suite = backbone.suite_of(recipe.checkpoint)
    if config.data.path is not None and suite not in plugins.names(plugins.SUITES):
        return backbone.default_suite
    return suite


def _recipe(config: Config) -> BackboneRecipe:
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))
    model = config.model
    return BackboneRecipe.of(
        str(model.name),
        model.checkpoint,
        model.options,
        revision=model.revision,
        device=model.device,
        dtype=model.dtype,
        backend=model.backend,
    )
