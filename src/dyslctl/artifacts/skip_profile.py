"""The skip profile: which layers are static, how we know, and the settings everything after it uses (3.1-3.3).

A YAML file that a person reads and may edit; ``dyslctl profile`` writes it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from dyslctl.artifacts.bundle_parts import Section, Sizes
from dyslctl.artifacts.document import Document, Part
from dyslctl.artifacts.files import atomic_write
from dyslctl.artifacts.strict_yaml import dump_yaml, read_yaml
from dyslctl.backbone import BackboneSpec
from dyslctl.dysl.guidance import ChunkPolicy, GuidanceSettings
from dyslctl.dysl.skip_modules import Pool
from dyslctl.errors import ArtifactError

CALIBRATE_HINT = "dyslctl distill --stage 2 calibrates it"
Positive = Annotated[int, Field(gt=0)]
Layer = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class BackboneRef(Part):
    """Which weights a file belongs to.

    Attributes:
        plugin: Entry-point name.
        checkpoint: Hub id or folder, as given.
        revision: Hub revision, if one was named.
        fingerprint: ``BackboneSpec.fingerprint``.
        num_layers: ``L``.
        last_live_layer: The last layer whose output the head reads.
    """

    plugin: str
    checkpoint: str
    revision: str | None = None
    fingerprint: str
    num_layers: Positive
    last_live_layer: Layer


class Similarity(Part):
    """Input-output cosine of each layer, a mean over valid tokens, then samples (Fig. 3c-d).

    Attributes:
        cosine: ``L`` values; low = informative.
        standard_error: Of each of them, over samples.
        by_token_class: Token class -> ``L`` cosines over its tokens alone.
    """

    cosine: tuple[float, ...]
    standard_error: tuple[float, ...]
    by_token_class: dict[str, tuple[float, ...]] = Field(default_factory=dict)

    def columns(self) -> dict[str, tuple[float, ...]]:
        """Every per-layer list, by the path of its key."""
        classes = {f"by_token_class.{name}": values for name, values in self.by_token_class.items()}
        return {"cosine": self.cosine, "standard_error": self.standard_error, **classes}


class Guidance(Section):
    """Settings of pre-skip prediction and post-skip verification (3.3); run-time twin: :class:`GuidanceSettings`.

    A bundle of ``dysl-paper`` begins with those of the profile.

    Attributes:
        k: Window of the continuity, Eq. 1, in actions.
        eta_1: Below this change of continuity the skipping-allow points move forward, Eq. 2 (< 0).
        eta_2: Above this change they move back, Eq. 3 (>= 0). Both are null until calibrated.
        tau: A controller above this probability skips.
        tau_by_layer: Dynamic layer -> its own ``tau``.
        lenience: Logits that every controller is more willing to skip by; ``dyslctl calibrate`` sets it.
        chunk_policy: How the actions of one chunk become one change of continuity.
        stride: ``adaptive`` is Eq. 2's ceil(dC / eta_1); a number is a constant stride.
        gripper_weight: Weight of the gripper column in Eq. 1; 1 is the paper's.
        scale: ``[A]`` standard deviations to divide by in Eq. 1, or null.
    """

    KEY: ClassVar[str] = "guidance"
    MODULES: ClassVar[str] = "Adapters and skipping controllers (DySL-VLA)"

    k: Positive = 5
    eta_1: Annotated[float, Field(lt=0)] | None = None
    eta_2: Annotated[float, Field(ge=0)] | None = None
    tau: Fraction = 0.5
    tau_by_layer: dict[Layer, Fraction] = Field(default_factory=dict)
    lenience: float = 0.0
    chunk_policy: ChunkPolicy = "chunk_min"
    stride: Literal["adaptive"] | Positive = "adaptive"
    gripper_weight: Annotated[float, Field(ge=0)] = 1.0
    scale: tuple[float, ...] | None = None

    @classmethod
    def of(cls, settings: GuidanceSettings) -> Self:
        """The file's form of run-time settings."""
        return cls(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)})

    def settings(self) -> GuidanceSettings:
        """The run-time form.

        Raises:
            ArtifactError: If ``eta_1`` or ``eta_2`` is still unknown.
        """
        if self.eta_1 is None or self.eta_2 is None:
            raise ArtifactError("the guidance is not calibrated yet: eta_1 or eta_2 is null", hint=CALIBRATE_HINT)
        return GuidanceSettings(**{**dict(self), "eta_1": self.eta_1, "eta_2": self.eta_2})

    def turned(self, dial: float) -> Self:
        """The dial is the lenience."""
        return self.model_copy(update={"lenience": dial})

    def facts(self) -> dict[str, Any]:
        """The thresholds that are the same for all layers."""
        return {"eta_1": self.eta_1, "eta_2": self.eta_2, "tau": self.tau, "lenience": self.lenience}

    def calibrated_to(self) -> str:
        """The same, and the window."""
        if self.eta_1 is None or self.eta_2 is None:
            return "not calibrated yet"
        thresholds = f"eta_1 = {self.eta_1:.4g}, eta_2 = {self.eta_2:.4g}, tau = {self.tau:.4g}"
        return f"{thresholds}, lenience = {self.lenience:.4g}, k = {self.k}"


class ModuleSizes(Sizes):
    """Sizes of the modules of ``dysl-paper``, one adapter and one controller a dynamic layer.

    Attributes:
        adapter_width: Hidden width ``r`` of an adapter.
        controller_width: Hidden width ``h`` of a controller.
        pool: Over which tokens a controller's input is pooled, and how.
    """

    RUN_WITH: ClassVar[tuple[type[Section], ...]] = (Guidance,)

    adapter_width: Positive
    controller_width: Positive
    pool: Pool = "query_tokens"

    def in_words(self) -> str:
        """Both widths."""
        return f"adapter / controller width {self.adapter_width} / {self.controller_width}"


class MadeWith(Part):
    """What made a file: enough to make it again."""

    dyslctl: str
    torch: str
    numpy: str
    seed: int
    command: str


class SkipProfile(Document):
    """The static-dynamic partition of one backbone, with its evidence and settings.

    Attributes:
        suite: Task suite the samples came from.
        samples: Observations behind ``similarity``.
        static_layers: Always executed, ascending; all other layers are dynamic.
        ratio: Share of static layers asked for.
        criterion: The rule that ranked the layers.
    """

    SCHEMA: ClassVar[str] = "dyslctl.skip-profile/1"

    backbone: BackboneRef
    suite: str
    samples: Positive
    static_layers: Annotated[tuple[Layer, ...], Field(min_length=1)]
    ratio: Fraction
    criterion: str
    similarity: Similarity
    guidance: Guidance = Guidance()
    modules: ModuleSizes
    made_with: MadeWith

    @model_validator(mode="after")
    def _layers_agree(self) -> Self:
        num_layers = self.backbone.num_layers
        if list(self.static_layers) != sorted(set(self.static_layers)):
            raise ValueError(f"static_layers must be ascending without repeats, found {list(self.static_layers)}")
        if max(*self.static_layers, self.backbone.last_live_layer) >= num_layers:
            raise ValueError(f"static_layers and backbone.last_live_layer must be below num_layers = {num_layers}")
        for name, column in self.similarity.columns().items():
            if len(column) != num_layers:
                raise ValueError(f"similarity.{name}: expected {num_layers} values, found {len(column)}")
        return self

    @property
    def dynamic_layers(self) -> tuple[int, ...]:
        """The layers that may be skipped, ascending."""
        return tuple(layer for layer in range(self.backbone.num_layers) if layer not in self.static_layers)

    @property
    def hash(self) -> str:
        """Digest of what trained modules depend on: weights, partition, sizes. Guidance may change freely."""
        return _digest(
            {
                "backbone": self.backbone.fingerprint,
                "num_layers": self.backbone.num_layers,
                "static_layers": list(self.static_layers),
                "modules": self.modules.model_dump(mode="json"),
            }
        )

    def check_backbone(self, spec: BackboneSpec) -> None:
        """Does this profile belong to the loaded backbone?

        Raises:
            ArtifactError: If it was made with other weights.
        """
        if spec.fingerprint != self.backbone.fingerprint:
            raise ArtifactError(
                f"the skip profile was made with other weights: profile {self.backbone.fingerprint} "
                f"({self.backbone.checkpoint}), loaded backbone {spec.fingerprint}",
                hint=f"dyslctl profile {self.backbone.plugin} --checkpoint ... makes a profile for these weights",
            )

    def save(self, path: Path) -> None:
        """Write the YAML file.

        Raises:
            EnvironmentMismatch: If it cannot be written.
        """
        atomic_write(path, dump_yaml(self.dump(), self._header()))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the YAML file.

        Raises:
            ArtifactError: If it is missing, damaged, of another schema, or wrong in any key.
        """
        return cls.parse(read_yaml(path, hint="dyslctl profile makes it"), str(path))

    def _header(self) -> str:
        share = f"{len(self.static_layers)} of {self.backbone.num_layers} layers are static"
        return (
            f"Skip profile of {self.backbone.plugin} ({self.backbone.checkpoint}): {share}.\n"
            f"Made by: {self.made_with.command}\n"
            "`dyslctl distill` reads it: after an edit, run it again. The bundle holds the guidance in use.\n"
        )


def _digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
