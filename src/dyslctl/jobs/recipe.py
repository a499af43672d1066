"""How to load a backbone and make a policy, in plain values: worker processes get the recipe, not the weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from dyslctl import methods, plugins
from dyslctl.artifacts.bundle import SETTINGS
from dyslctl.artifacts.bundle_settings import BundleSettings
from dyslctl.artifacts.files import sha256
from dyslctl.artifacts.run_dir import open_run
from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.backbone import Backbone, BackboneSpec
from dyslctl.devices.host import usable_cpus
from dyslctl.errors import ArtifactError, ConfigError, EnvironmentMismatch
from dyslctl.jobs.trained_methods import TRAINED
from dyslctl.jobs.trained_modules import partition_of
from dyslctl.method_assets import NO_ASSETS, Assets, Setup
from dyslctl.policy import Policy
from dyslctl.pruning.settings import PRUNING, PruningSettings
from dyslctl.runtime.memory import large_blocks_returned
from dyslctl.runtime.packed import EAGER, with_backend


@dataclass(frozen=True)
class BackboneRecipe:
    """Which backbone, and how to load it.

    Attributes:
        plugin: Entry-point name.
        checkpoint: Folder or Hub id.
        device: As torch names it.
        dtype: As torch names it, e.g. ``float32``.
        options: The plugin's own settings, as JSON (a mapping could not be hashed).
        backend: What runs the decoder layers, one of ``runtime.packed.BACKENDS``.
    """

    plugin: str
    checkpoint: str
    revision: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    options: str = "{}"
    backend: str = EAGER

    @classmethod
    def of(cls, plugin: str, checkpoint: str | None, options: dict[str, Any], **how: Any) -> BackboneRecipe:
        """A recipe with the plugin's default checkpoint where ``checkpoint`` is ``None``.

        Raises:
            ConfigError: If there is no such plugin, or it has no checkpoint of its own.
        """
        backbone = plugins.load_backbone(plugin)
        chosen = checkpoint or backbone.default_checkpoint()
        if chosen is None:
            raise ConfigError(f"{plugin} brings no checkpoint of its own", hint=backbone.checkpoint_hint)
        return cls(plugin, str(chosen), options=json.dumps(options, sort_keys=True), **how)

    def load(self) -> Backbone:
        """The backbone, loaded once a process.

        Raises:
            ArtifactError: If the checkpoint is missing or damaged.
            ConfigError: If it cannot run on the backend.
            EnvironmentMismatch: If this machine has no such device.
        """
        return _load_backbone(self)


@dataclass(frozen=True)
class PolicyRecipe:
    """Everything that decides what a policy does.

    Attributes:
        skip_profile: The file; it must be there for every method but ``full``.
        bundles: Folders of the trained modules, by the method that they were trained for.
        execute_horizon: Actions executed before the next inference.
        target_layers: Mean executed layers that random skipping aims at.
        dial: Where the method's dial stands; ``None``: as it was calibrated.
        pruning: What methods that prune tokens are told.
    """

    backbone: BackboneRecipe
    skip_profile: Path
    bundles: Mapping[str, Path]
    execute_horizon: int
    seed: int = 0
    target_layers: float | None = None
    dial: float | None = None
    pruning: PruningSettings = PRUNING

    def factory(self, method: str) -> partial[Policy]:
        """What makes ``method``'s policy, in whatever process it is called."""
        return partial(make_policy, method, self)

    def identity(self) -> dict[str, str]:
        """Digests of the skip profile and the bundles: what makes two evaluations comparable.

        Raises:
            ArtifactError: If there is no bundle where one is expected.
        """
        profile = {"skip_profile": sha256(self.skip_profile)} if self.skip_profile.exists() else {}
        digests = self.digests() if self.dial is None else {name: self._dialled(name) for name in self.digests()}
        return {**profile, **{f"{method}_settings": digest for method, digest in digests.items()}}

    def _dialled(self, method: str) -> str:
        """Of a bundle with its dial here, wherever it stands in the file: trials of a search outlive its result."""
        settings = BundleSettings.load(self.bundles[method] / SETTINGS)
        told = {"weights": settings.weights_sha256, "section": settings.section.turned(self.dial or 0.0).model_dump()}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def digests(self) -> dict[str, str]:
        """Of each bundle, trained modules and settings: what a result says it was made with.

        Raises:
            ArtifactError: If there is no bundle where one is expected.
        """
        found = {}
        for method, folder in self.bundles.items():
            if not (folder / SETTINGS).exists():
                raise ArtifactError(
                    f"there is no bundle at {folder}",
                    hint=f"dyslctl distill --method {method} makes it; --resume goes on with an interrupted one",
                )
            found[method] = sha256(folder / SETTINGS)
        return found

    def about(self, names: Iterable[str]) -> dict[str, Any]:
        """All that episodes of the methods ``names`` depend on beside suite and initial states: resuming compares it.

        Raises:
            ArtifactError: If there is no bundle where one is expected.
        """
        chosen = list(names)
        bundles: dict[str, Path] = {name: self.bundles[name] for name in methods.bundles(chosen)}
        return {
            "backbone": self.backbone.load().spec.fingerprint,
            "options": self.backbone.options,
            "device": self.backbone.device,
            "dtype": self.backbone.dtype,
            "backend": self.backbone.backend,
            "seed": self.seed,
            "dial": self.dial,
            "target_layers": self.target_layers,
            "pruning": asdict(self.pruning) if any(methods.method(name).prunes for name in chosen) else None,
            **replace(self, bundles=bundles).identity(),
        }

    def assets(self) -> Assets:
        """The partition and the trained modules, loaded once a process.

        Raises:
            ArtifactError: If they are missing, damaged, or belong to another profile or backbone.
        """
        if not self.skip_profile.exists() and not self.bundles:
            return NO_ASSETS
        digests = tuple(self.identity().values())
        return _load_assets(self.backbone, self.skip_profile, tuple(self.bundles.items()), digests)

    def setup(self) -> Setup:
        """What a method is built from: everything loaded.

        Raises:
            ArtifactError: As :meth:`assets`.
            ConfigError: If more actions are to be executed than the backbone predicts.
        """
        backbone = self.backbone.load()
        check_horizon(self.execute_horizon, backbone.spec)
        return Setup(
            backbone,
            self.execute_horizon,
            self.seed,
            self.assets(),
            self.target_layers,
            self.dial,
            self.pruning,
        )


def check_horizon(execute_horizon: int, spec: BackboneSpec) -> None:
    """An inference gives no more actions than it predicts.

    Raises:
        ConfigError: If more are to be executed before the next one.
    """
    if execute_horizon > spec.chunk_length:
        raise ConfigError(
            f"execute_horizon is {execute_horizon}, but the backbone predicts {spec.chunk_length} actions",
            hint=horizon_hint(spec),
        )


def horizon_hint(spec: BackboneSpec) -> str:
    """How to say how many actions are executed."""
    return (
        f"--execute-horizon N (or --set execute_horizon=N), N up to {spec.chunk_length}; released models execute all "
        "that they predict"
    )


def load_policy(
    run: str | Path | None = None,
    method: str = "dysl",
    *,
    device: str | None = None,
    dtype: str | None = None,
    options: Mapping[str, Any] | None = None,
    checkpoint: str | Path | None = None,
    execute_horizon: int | None = None,
    target_layers: float | None = None,
    dial: float | None = None,
    pruning: PruningSettings = PRUNING,
    backend: str = EAGER,
) -> Policy:
    """What a robot holds: the policy that a run has trained, on the backbone it was trained for, loaded alike.

    The robot needs the run's folder, the checkpoint and the backbone's plugin; of the suite's plugin only what nobody
    else says: how many actions to execute.

    Args:
        run: Name of the run, or its folder (a path, or text with a ``/`` in it); ``None``: the current one.
        method: Any name that ``dyslctl eval --method`` knows.
        device: As torch names it; ``None``: the one that the run was profiled on.
        dtype: As torch names it; ``None``: the one that the run was profiled in.
        options: The backbone plugin's own settings, those of ``--set model.options.KEY=VALUE``, over the run's.
        checkpoint: Where the weights are on this machine; ``None``: where they were when the run was profiled. Others
            than those are refused, by their fingerprint.
        execute_horizon: Actions executed before the next inference; ``None``: as many as the exits were trained for, or
            as the run was told (``--execute-horizon``), or as its suite executes.
        target_layers: Mean executed layers, for the methods that match another one's.
        dial: Where the method's dial stands (``methods.METHODS[method].dial``); ``None``: as it was calibrated.
        pruning: What methods that prune tokens are told.
        backend: What runs the layers: ``eager``, or on the CPU ``packed`` or ``packed-int8``, which also keep torch
            from using more threads than this process has CPUs.

    Raises:
        ConfigError: If there is no such run, method or backend, or the exits were trained for another
            ``execute_horizon``.
        ArtifactError: If an artifact is missing, damaged, or belongs to others.
        PluginError: If a plugin is needed that does not load.
    """
    directory = open_run(run)
    manifest, loaded = directory.manifest(), directory.told("model")
    backbone = BackboneRecipe.of(
        manifest.backbone,
        str(checkpoint or manifest.checkpoint),
        {**loaded.get("options", {}), **(options or {})},
        revision=manifest.revision,
        device=device or loaded.get("device", "cpu"),
        dtype=dtype or loaded.get("dtype", "float32"),
        backend=backend,
    )
    recipe = PolicyRecipe(
        backbone,
        directory.skip_profile,
        {name: directory.bundle(name) for name in methods.bundles([method])},
        execute_horizon or 1,
        target_layers=target_layers,
        dial=dial,
        pruning=pruning,
    )
    told = execute_horizon or recipe.assets().execute_horizon or directory.execute_horizon()
    return make_policy(
        method, replace(recipe, execute_horizon=told or plugins.load_suite(manifest.suite).execute_horizon)
    )


def make_policy(method: str, recipe: PolicyRecipe) -> Policy:
    """The policy of ``method``.

    Raises:
        ConfigError: If there is no such method, or it lacks what it needs.
        ArtifactError: If an artifact is missing, damaged, or belongs to others.
    """
    return methods.build(method, recipe.setup())


@cache
def _load_backbone(recipe: BackboneRecipe) -> Backbone:
    try:
        device = torch.device(recipe.device)
    except RuntimeError as error:
        raise ConfigError(f"'{recipe.device}' is no torch device: expected cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EnvironmentMismatch("expected a CUDA device, found none", hint="--set model.device=cpu")
    with large_blocks_returned():
        loaded = plugins.load_backbone(recipe.plugin).load(
            recipe.checkpoint,
            revision=recipe.revision,
            device=device,
            dtype=getattr(torch, recipe.dtype),
            options=json.loads(recipe.options),
        )
        if recipe.backend != EAGER:
            torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))
        return with_backend(loaded, recipe.backend)


@cache
def _load_assets(
    backbone: BackboneRecipe, skip_profile: Path, bundles: tuple[tuple[str, Path], ...], digests: tuple[str, ...]
) -> Assets:
    """Cached by content too: ``distill`` may replace a bundle at the same path within one process."""
    loaded, profile, folders = backbone.load(), SkipProfile.load(skip_profile), dict(bundles)
    profile.check_backbone(loaded.spec)

    return Assets(
        partition_of(profile),
        profile.similarity.cosine,
        {
            how.bundle.method: how.load(folders[name], profile, loaded)
            for name, how in TRAINED.items()
            if name in folders
        },
    )
