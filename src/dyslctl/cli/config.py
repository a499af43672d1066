"""The settings of every command in one model, merged: defaults < run < ``--config`` < ``--set`` < flags."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from dyslctl.artifacts.document import Part, explain
from dyslctl.artifacts.strict_yaml import parse_yaml, read_yaml
from dyslctl.errors import ArtifactError, ConfigError
from dyslctl.pruning.settings import PRUNING, Agreement, PruningSettings, VerifyTokens
from dyslctl.trained import Trained

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NotNegativeFloat = Annotated[float, Field(ge=0)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]
DEFAULT_METHODS = ("full", "random-skip-adapters", "dysl")


class ModelConfig(Part):
    """Which backbone, how it is loaded, and what runs its layers (``runtime.packed.BACKENDS``)."""

    name: str | None = None
    checkpoint: str | None = None
    revision: str | None = None
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    backend: Literal["eager", "packed", "packed-int8"] = "eager"
    options: dict[str, Any] = Field(default_factory=dict)


class DataConfig(Part):
    """Recorded episodes in the place of a simulator, for ``profile`` and ``distill``; a run keeps what it began with.

    Attributes:
        path: Folder, ``.hdf5`` file, Hub id ``org/name[@revision]``, or a suite for its expert's; null: the simulator.
        map: Column mapping, a preset or a YAML file; null: the format's own (``data/mapping.py``).
    """

    path: str | None = None
    map: str | None = None


class GuidanceConfig(Part):
    """What ``dyslctl profile`` writes into the section ``guidance`` of the skip profile; null: its default."""

    k: Positive | None = None
    tau: float | None = Field(default=None, ge=0, le=1)
    chunk_policy: Literal["chunk_min", "per_action", "chunk_end", "first_action"] | None = None
    stride: Literal["adaptive"] | Positive | None = None
    gripper_weight: NotNegativeFloat | None = None


class ModulesConfig(Part):
    """What ``dyslctl profile`` writes into the section ``modules`` of the skip profile; null: by the hidden size."""

    adapter_width: Positive | None = None
    controller_width: Positive | None = None
    pool: Literal["mean", "last", "max", "query_tokens"] | None = None


class ProfileConfig(Part):
    """``dyslctl profile``: on how many observations, how the static layers are chosen, and what else it writes."""

    samples: Positive = 512
    data: Literal["expert", "policy"] = "expert"
    ratio: float | None = Field(default=None, gt=0, lt=1)
    static_layers: Positive | None = None
    criterion: Literal["similarity", "sensitivity", "path-cost", "uniform"] = "similarity"
    batch_size: Positive = 64
    guidance: GuidanceConfig = GuidanceConfig()
    modules: ModulesConfig = ModulesConfig()


class DistillConfig(Part):
    """``dyslctl distill``: what to train, what to learn from, and what replaces the method's own defaults.

    Those are ``jobs.distill_exits.ExitTraining`` for ``dysl``, ``static`` and ``deer``, and for ``dysl-paper``, both
    ``flexidepth`` and ``mole`` ``DistillSettings``, ``RouterTraining`` and ``MixtureTraining`` in ``jobs``; a key of
    another one is an error. ``suites``: where exits learn, instead of the run's suite. ``workers``: processes that the
    simulators of a policy are spread over. ``token_subsets``: exits and planner of ``dysl`` see every sample on a
    subset of its visual tokens too, for ``dysl+specprune``.
    """

    method: Trained = "dysl"
    suites: Names | None = None
    workers: Positive = 1
    episodes: Positive | None = None
    data: Literal["expert", "policy"] | None = None
    steps: Positive | None = None
    batch_size: Positive | None = None
    window: Positive | None = None
    adapter_lr: PositiveFloat | None = None
    controller_lr: PositiveFloat | None = None
    warmup: NotNegative | None = None
    decay: Literal["constant", "linear", "cosine"] | None = None
    weight_decay: NotNegativeFloat | None = None
    clip: PositiveFloat | None = None
    precision: Literal["auto", "fp32", "bf16"] | None = None
    checkpoint_every: Positive | None = None
    accumulate: Positive | None = None
    gradient_checkpointing: bool | None = None
    log: Literal["none", "tensorboard"] | None = None
    norm: Literal["fro_rms", "fro", "mse", "token_l2"] | None = None
    law: Literal["harmonic", "linear", "uniform"] | None = None
    penalty_weight: NotNegativeFloat | None = None
    kd_weight: NotNegativeFloat | None = None
    balance_weight: NotNegativeFloat | None = None
    kept_share: float | None = Field(default=None, gt=0, le=1)
    hard: bool | None = None
    from_scratch: bool | None = None
    exits: tuple[Positive, ...] | None = None
    adapter_width: Positive | None = None
    planner_width: Positive | None = None
    remembers: bool | None = None
    token_subsets: bool | None = None
    rounds: Positive | None = None
    explore: float | None = Field(default=None, gt=0, lt=1)
    planner_steps: Positive | None = None
    planner_batch: Positive | None = None
    planner_lr: PositiveFloat | None = None
    cache_gb: NotNegativeFloat | None = None


class GuidanceFitConfig(Part):
    """The end of stage 2: the thresholds of ``dysl-paper``'s guidance, offline, from episodes of the full model.

    ``episodes``: by default so many that they have 50 subtasks.
    """

    episodes: Positive | None = None
    rule: Literal["occupancy", "quantile"] = "occupancy"
    p1: float = Field(default=0.1, gt=0, lt=1)
    p2: float = Field(default=0.5, gt=0, lt=1)
    protected: float = Field(default=0.3, gt=0, lt=1)
    skip_rate: float | None = Field(default=None, ge=0, le=1)


class CalibrateConfig(Part):
    """``dyslctl calibrate``, and the end of ``distill`` if a target is given: a method's dial, from closed loop.

    ``max_damage`` counts on recorded episodes, where no target is given: see ``jobs/fit_tolerance.py``.
    ``episodes``: by default so many that they have 200 subtasks.
    """

    method: str = "dysl"
    target_layers: PositiveFloat | None = None
    target_ms: PositiveFloat | None = None
    max_success_drop: NotNegativeFloat | None = None
    max_damage: PositiveFloat = 0.1
    episodes: Positive | None = None
    workers: Positive = 1
    batch: Positive | None = None


class EvalConfig(Part):
    """``dyslctl eval``: which methods on which episodes, how long one may take (seconds), and which are filmed."""

    methods: Names = DEFAULT_METHODS
    episodes: Positive = 100
    split: Literal["train", "tune", "test"] = "test"
    workers: Positive = 1
    executor: Literal["local", "ray"] = "local"
    batch: Positive = 1
    episode_timeout: PositiveFloat | None = None
    video: Literal["first", "failed", "all"] | None = None
    target_episodes: Positive = 20


class BenchConfig(Part):
    """``dyslctl bench``: which methods, how long each is timed, and for which software a prediction stands.

    ``compare``: what else runs all the layers, to be timed beside (``jobs/layer_rivals.py``). ``tokens``: how many
    the full pass is timed or predicted on, beside all (``jobs/token_sweep.py``).
    """

    methods: Names = DEFAULT_METHODS
    warmup: NotNegative = 5
    iterations: Positive = 60
    min_seconds: NotNegativeFloat = 2.0
    episodes: Positive = 4
    stack: str = "paper-eager"
    compare: tuple[Literal["eager", "transformers", "transformers-compiled"], ...] = ()
    tokens: tuple[Positive, ...] = ()


class ParetoConfig(Part):
    """``dyslctl analyze pareto``: which curves, from how many trainings, on how many episodes.

    With no ``methods`` given, those of ``cli.steps.pareto.METHODS``.
    """

    methods: Names | None = None
    budgets: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (4.5, 5.0, 6.0)
    seeds: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (0, 1, 2)
    episodes: Positive = 1000
    tune_episodes: Positive = 200
    workers: Positive = 1
    batch: Positive | None = None


class AnalyzeConfig(Part):
    """``dyslctl analyze``: what its studies share, and the sizes of some; ``pareto`` has a section of its own.

    Attributes:
        methods: Which methods; null: the study's own choice.
        batch: Episodes side by side; null: as many as pays. Studies that time play one at a time.
        parts, noise: ``importance``: equal parts of an episode, and how strongly each is disturbed (normalised).
        ranges, damaged: ``continuity``: equally wide ranges, and the share of inferences that counts as damaged.
        episode: ``allow-points``: which one, from 0.
    """

    methods: Names | None = None
    episodes: Positive = 100
    split: Literal["train", "tune", "test"] = "test"
    workers: Positive = 1
    batch: Positive | None = None
    parts: Positive = 5
    noise: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    ranges: Annotated[int, Field(ge=2)] = 5
    damaged: float = Field(default=0.1, gt=0, lt=1)
    episode: NotNegative = 0


class AblationConfig(Part):
    """``dyslctl analyze ablation``: which table, from how many trainings, on how many episodes, and where it runs.

    ``table``: a name in ``cli/ablations.yaml``, or a file like it. ``layers``: set every cell to so many; null: what
    the table says, which may be to leave it as it is trained.
    """

    table: str = "4"
    layers: PositiveFloat | None = None
    seeds: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (0,)
    episodes: Positive = 500
    tune_episodes: Positive = 100
    workers: Positive = 1
    executor: Literal["local", "ray"] = "local"
    batch: Positive | None = None


class PruningConfig(Part):
    """Methods that prune tokens; what each key means is said in ``pruning/settings.py``, whose defaults hold."""

    keep: float = Field(default=PRUNING.keep, gt=0, le=1)
    bucket: Positive = PRUNING.bucket
    after_layers: Positive = PRUNING.after_layers
    recycled: float = Field(default=PRUNING.recycled, ge=0, le=1)
    dropped_layers: NotNegative = PRUNING.dropped_layers
    static_similarity: float = Field(default=PRUNING.static_similarity, ge=-1, le=1)
    static_tokens: Positive = PRUNING.static_tokens
    relevant_tokens: Positive = PRUNING.relevant_tokens
    alpha: PositiveFloat = PRUNING.alpha
    global_tokens: Positive = PRUNING.global_tokens
    local_coarse: Positive = PRUNING.local_coarse
    local_fine: Positive = PRUNING.local_fine
    dynamic_coarse: Positive = PRUNING.dynamic_coarse
    dynamic_fine: Positive = PRUNING.dynamic_fine
    similarity: float = Field(default=PRUNING.similarity, ge=-1, le=1)
    fine_translation: PositiveFloat = PRUNING.fine_translation
    fine_rotation: PositiveFloat = PRUNING.fine_rotation
    layer_share: float = Field(default=PRUNING.layer_share, gt=0, le=1)
    update_rate: float = Field(default=PRUNING.update_rate, gt=0, le=1)
    rank_slope: PositiveFloat = PRUNING.rank_slope
    agreement: Agreement = PRUNING.agreement
    refresh: float = Field(default=PRUNING.refresh, ge=0, le=1)
    max_age: Positive = PRUNING.max_age
    verify_tokens: VerifyTokens = PRUNING.verify_tokens

    def settings(self) -> PruningSettings:
        """As the library takes them.

        Raises:
            ConfigError: If they contradict each other.
        """
        return PruningSettings(**self.model_dump())


class Config(Part):
    """Everything a command can be told. Unknown keys are errors.

    ``execute_horizon``: actions executed before the next inference, in place of the suite's number; a recording has
    none. A run keeps what it began with.
    """

    model: ModelConfig = ModelConfig()
    suite: str | None = None
    execute_horizon: Positive | None = None
    seed: NotNegative = 0
    data: DataConfig = DataConfig()
    profile: ProfileConfig = ProfileConfig()
    distill: DistillConfig = DistillConfig()
    guidance: GuidanceFitConfig = GuidanceFitConfig()
    eval: EvalConfig = EvalConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    bench: BenchConfig = BenchConfig()
    pruning: PruningConfig = PruningConfig()
    pareto: ParetoConfig = ParetoConfig()
    analyze: AnalyzeConfig = AnalyzeConfig()
    ablation: AblationConfig = AblationConfig()


Layer = tuple[str, Mapping[str, Any]]
"""Where settings were said, for error messages, and the settings as nested mappings."""


def merge(layers: Sequence[Layer]) -> Config:
    """Lay ``layers`` over the defaults, each over the ones before it.

    Raises:
        ConfigError: If a key is unknown (with the nearest known one) or a value is wrong, naming the layer.
    """
    merged: dict[str, Any] = {}
    for where, settings in layers:
        merged = _overlay(merged, settings)
        _check(settings, where)
    return _check(merged, "the merged configuration")


def read_config(path: Path) -> Layer:
    """The settings in the YAML file ``path``.

    Raises:
        ConfigError: If it cannot be read or is not a YAML mapping.
    """
    try:
        return str(path), read_yaml(path)
    except ArtifactError as error:
        raise ConfigError(error.message, error.hint) from error


def parse_set(assignment: str) -> Layer:
    """``"eval.episodes=50"`` -> ``{"eval": {"episodes": 50}}``; values are typed as in YAML.

    Raises:
        ConfigError: If it is not ``key=value`` or the value is not YAML.
    """
    where = f"--set {assignment}"
    path, equals, text = assignment.partition("=")
    if not equals or not all(path.split(".")):
        raise ConfigError(f"{where}: expected KEY=VALUE with a dotted key, for example eval.episodes=50")
    try:
        settings: Any = parse_yaml(f"value: {text}", where)["value"]
    except ArtifactError as error:
        raise ConfigError(error.message) from error
    for key in reversed(path.split(".")):
        settings = {key: settings}
    return where, settings


def flags(**settings: Any) -> Layer:
    """The flags the user gave, as ``section__key=value``; ``None`` means not given."""
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        if value is not None:
            *sections, key = name.split("__")
            place = tree
            for section in sections:
                place = place.setdefault(section, {})
            place[key] = value
    return "the command line", tree


def _check(settings: Mapping[str, Any], where: str) -> Config:
    try:
        # Through JSON, because pydantic's strict mode takes a list for a tuple only there.
        return Config.model_validate_json(json.dumps(settings, default=str))
    except ValidationError as error:
        raise ConfigError(f"{where}:\n{explain(error, Config)}") from error


def _overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _overlay(result[key], value) if nested else value
    return result
