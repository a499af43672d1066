"""``bundle.yaml``: the settings that trained modules run with, and where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from dyslctl.artifacts.document import Document, Part
from dyslctl.artifacts.skip_profile import Fraction, Guidance
from dyslctl.artifacts.strict_yaml import dump_yaml, read_yaml
from dyslctl.dysl.exit_policy import ExitSettings
from dyslctl.errors import ArtifactError


class Calibration(Part):
    """Where the calibrated numbers come from.

    Attributes:
        rule: How they were chosen, e.g. ``quantile``.
        suite, split, episodes: The rollouts behind them.
        numbers: Anything else worth keeping: quantiles, protected share, AUC.
        data_hash: SHA-256 of the recorded actions; ``None`` for numbers that were set by hand.
    """

    rule: str
    suite: str
    split: str
    episodes: int
    numbers: dict[str, float] = Field(default_factory=dict)
    data_hash: str | None = None


class Exits(Part):
    """Settings of ``dysl``; run-time twin: :class:`ExitSettings`.

    Attributes:
        tolerance: Log of the damage that is worth as much as all layers; null until calibrated.
    """

    tolerance: float | None = None

    def settings(self) -> ExitSettings:
        """The run-time form.

        Raises:
            ArtifactError: If the tolerance is still unknown.
        """
        if self.tolerance is None:
            raise ArtifactError(
                "the exits are not calibrated yet: tolerance is null", hint="dyslctl calibrate --max-success-drop 1pp"
            )
        return ExitSettings(self.tolerance)


class Routing(Part):
    """Settings of ``flexidepth`` and ``flexidepth-tokens``.

    Attributes:
        tau: A router above this probability skips its layer; token by token, for the token it was asked about.
    """

    tau: Fraction = 0.5


class Consistency(Part):
    """Settings of ``deer``.

    Attributes:
        share: Of the layers, that its thresholds run on average on the held-out states they are solved from.
    """

    share: Annotated[float, Field(ge=0, le=1)] = 0.75


class Mixture(Part):
    """Settings of ``mole``.

    Attributes:
        share: Of the layers, that run.
    """

    share: Annotated[float, Field(ge=0, le=1)]


Section = Guidance | Exits | Routing | Consistency | Mixture
"""What one method runs with."""


class BundleSettings(Document):
    """The content of ``bundle.yaml``: the section of its method, and where its numbers come from.

    Attributes:
        exits: For ``dysl``.
        guidance: For ``dysl-paper``.
        routing: For ``flexidepth`` and ``flexidepth-tokens``.
        consistency: For ``deer``.
        mixture: For ``mole``.
    """

    SCHEMA: ClassVar[str] = "dyslctl.bundle-settings/3"

    weights_sha256: str
    exits: Exits | None = None
    guidance: Guidance | None = None
    routing: Routing | None = None
    consistency: Consistency | None = None
    mixture: Mixture | None = None
    calibration: Calibration | None = None

    @model_validator(mode="after")
    def _one_section(self) -> Self:
        sections = (self.exits, self.guidance, self.routing, self.consistency, self.mixture)
        if sum(section is not None for section in sections) != 1:
            raise ValueError("expected one of the sections exits, guidance, routing, consistency and mixture")
        return self

    @classmethod
    def of(cls, digest: str, section: Section, calibration: Calibration | None) -> Self:
        """Settings of the weights whose SHA-256 is ``digest``."""
        match section:
            case Exits():
                return cls(weights_sha256=digest, exits=section, calibration=calibration)
            case Guidance():
                return cls(weights_sha256=digest, guidance=section, calibration=calibration)
            case Routing():
                return cls(weights_sha256=digest, routing=section, calibration=calibration)
            case Consistency():
                return cls(weights_sha256=digest, consistency=section, calibration=calibration)
            case Mixture():
                return cls(weights_sha256=digest, mixture=section, calibration=calibration)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the YAML file.

        Raises:
            ArtifactError: If it is missing, damaged, of another schema, or wrong in any key.
        """
        return cls.parse(read_yaml(path, hint="dyslctl distill makes it"), str(path))

    def yaml(self) -> str:
        """The file's text; what is null at the top is left out."""
        written = {key: value for key, value in self.dump().items() if value is not None}
        return dump_yaml(written, "Settings of the trained modules beside this file; they may be edited.\n")
