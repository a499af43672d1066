"""``profile``: which layers are informative, and so which stay static (sections 3.1 and 3.2)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from dyslctl.artifacts.files import write_json
from dyslctl.artifacts.fingerprint import made_with
from dyslctl.artifacts.skip_profile import BackboneRef, ModuleSizes, Similarity, SkipProfile
from dyslctl.backbone import Backbone, BackboneSpec
from dyslctl.data.source import DemonstrationSource
from dyslctl.dysl.partition import Criterion, StaticBudget, choose_static, default_static_count, static_count
from dyslctl.dysl.sensitivity import skip_sensitivity
from dyslctl.dysl.similarity import SimilarityAccumulator, SimilarityResult
from dyslctl.dysl.skip_modules import dysl_sizes
from dyslctl.errors import ConfigError
from dyslctl.jobs.data import Source, collect_recorded, sample_states
from dyslctl.jobs.dataset import Dataset
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.suite import TaskSuite

SIMILARITY_SCHEMA = "dyslctl.similarity/1"
FRAMES_PER_EPISODE = 8


class _Sampling(TypedDict):
    """How the samples are chosen and encoded, wherever they are from."""

    samples: int
    per_episode: int
    seed: int
    batch_size: int
    progress: Progress


@dataclass(frozen=True)
class ProfileResult:
    """What ``profile`` found.

    Attributes:
        profile: The artifact to save.
        similarity: Everything measured, for plots.
        seconds: Wall-clock time, data included.
    """

    profile: SkipProfile
    similarity: SimilarityResult
    seconds: float

    def save_similarity(self, path: Path) -> None:
        """Write the measured arrays as JSON, atomically.

        Raises:
            EnvironmentMismatch: If it cannot be written.
        """
        write_json(path, self.similarity_document())

    def similarity_document(self) -> dict[str, Any]:
        """The measured arrays as plain values."""
        found = self.similarity
        return {
            "schema": SIMILARITY_SCHEMA,
            "samples": found.samples,
            "episodes": found.episodes,
            "similarity": found.similarity.tolist(),
            "standard_error": found.standard_error.tolist(),
            "centred": found.centred.tolist(),
            "relative_update": found.relative_update.tolist(),
            "by_token_class": {name: values.tolist() for name, values in found.by_class.items()},
            "heat_map": found.heat_map.tolist(),
        }


def profile(
    backbone: Backbone,
    suite: TaskSuite,
    *,
    plugin_name: str,
    checkpoint: str,
    revision: str | None = None,
    samples: int = 512,
    ratio: float | None = None,
    n_static: int | None = None,
    criterion: Criterion = "similarity",
    source: Source = "expert",
    recorded: DemonstrationSource | None = None,
    seed: int = 0,
    batch_size: int = 64,
    command: str = "dyslctl profile",
    progress: Progress = NO_PROGRESS,
) -> ProfileResult:
    """Measure the layers of ``backbone`` on demonstrations and choose the static ones.

    Args:
        backbone: The frozen model.
        suite: Where the demonstrations come from; half of the samples are from around gripper flips.
        plugin_name: Entry-point name of the backbone, for the artifact.
        checkpoint: Hub id or folder it was loaded from, for the artifact.
        revision: Hub revision, for the artifact; the commit it stands for, if the backbone knows it.
        samples: Observations to measure on.
        ratio: Share of static layers; ``None``: 20 %, with a minimum for shallow models (``default_static_count``).
        n_static: Number of static layers; overrides ``ratio``.
        criterion: How layers are chosen.
        source: Who visits the observed states of the suite.
        recorded: Episodes to measure on instead of the suite's.
        seed: Of the choice of samples.
        batch_size: Observations in one pass.
        command: What the user typed, for the artifact.
        progress: Told about episodes, samples encoded and samples measured.

    Raises:
        ConfigError: If the static layers cannot be chosen as asked, or an activation is not finite.
        ArtifactError: If a row of ``recorded`` cannot be used.
        PluginError: If the suite has no expert.
    """
    begin = time.perf_counter()
    spec = backbone.spec
    budget = _budget(spec, ratio, n_static)
    how = _Sampling(
        samples=samples, per_episode=FRAMES_PER_EPISODE, seed=seed, batch_size=batch_size, progress=progress
    )
    if recorded is None:
        data = sample_states(backbone, suite, source=source, **how)
    else:
        data = collect_recorded(backbone, recorded, **how)
    found = measure(backbone, data, batch_size=batch_size, seed=seed, progress=progress)
    sensitivity = _sensitivity(backbone, data, batch_size) if criterion == "sensitivity" else None
    result = SkipProfile(
        backbone=_reference(spec, plugin_name, checkpoint, revision),
        suite=suite.name if recorded is None else recorded.name,
        samples=found.samples,
        static_layers=choose_static(criterion, budget, found, sensitivity).static_layers,
        ratio=ratio if ratio is not None and n_static is None else budget.count / spec.num_layers,
        criterion=criterion,
        similarity=_similarity(found),
        modules=module_sizes(spec),
        made_with=made_with(command, seed),
    )
    return ProfileResult(result, found, time.perf_counter() - begin)


def measure(
    backbone: Backbone, data: Dataset, *, batch_size: int = 64, seed: int = 0, progress: Progress = NO_PROGRESS
) -> SimilarityResult:
    """Cosine similarities of every pair of layers over ``data``.

    Raises:
        ConfigError: If an activation is not finite.
    """
    accumulator = SimilarityAccumulator()
    progress.start(len(data), "measuring layers")
    for batch in data.batches(batch_size):
        accumulator.add(backbone, batch.to(backbone.device).inputs, batch.episodes.tolist())
        progress.advance(len(batch))
    progress.close()
    return accumulator.result(seed=seed)


def _sensitivity(backbone: Backbone, data: Dataset, batch_size: int) -> np.ndarray:
    return skip_sensitivity(backbone, (batch.to(backbone.device).inputs for batch in data.batches(batch_size)))


def module_sizes(spec: BackboneSpec) -> ModuleSizes:
    """The default sizes at the backbone's hidden size, in the profile's form."""
    sizes = dysl_sizes(spec.hidden_size)
    return ModuleSizes(adapter_width=sizes.adapter_rank, controller_width=sizes.controller_width, pool=sizes.pool)


def _budget(spec: BackboneSpec, ratio: float | None, n_static: int | None) -> StaticBudget:
    budget = StaticBudget(spec.num_layers, _static_count(spec, ratio, n_static), spec.last_live_layer)
    if budget.count >= spec.num_layers:
        raise ConfigError(
            f"all {spec.num_layers} layers would be static: there is nothing to skip",
            hint=f"--set profile.static_layers=N with N from {len(budget.forced)} to {spec.num_layers - 1}, or a "
            "smaller --ratio",
        )
    return budget


def _static_count(spec: BackboneSpec, ratio: float | None, n_static: int | None) -> int:
    if n_static is not None:
        return n_static
    return default_static_count(spec.num_layers) if ratio is None else static_count(spec.num_layers, ratio)


def _reference(spec: BackboneSpec, plugin_name: str, checkpoint: str, revision: str | None) -> BackboneRef:
    return BackboneRef(
        plugin=plugin_name,
        checkpoint=checkpoint,
        revision=spec.commit or revision,
        fingerprint=spec.fingerprint,
        num_layers=spec.num_layers,
        last_live_layer=spec.last_live_layer,
    )


def _similarity(found: SimilarityResult) -> Similarity:
    return Similarity(
        cosine=tuple(found.similarity.tolist()),
        standard_error=tuple(found.standard_error.tolist()),
        by_token_class={name: tuple(values.tolist()) for name, values in found.by_class.items()},
    )
