"""``bundle.yaml``: the settings that trained modules run with, and where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from dyslctl.artifacts.bundle_parts import Section
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
        execute_horizon: Actions that were executed an inference, where the numbers hold for no other number of them.
    """

    rule: str
    suite: str
    split: str
    episodes: int
    numbers: dict[str, float] = Field(default_factory=dict)
    data_hash: str | None = None
    execute_horizon: int | None = None


class Exits(Section):
    """Settings of ``dysl``; run-time twin: :class:`ExitSettings`. ``static`` has them too, and reads none.

    Attributes:
        tolerance: Log of the damage that is worth as much as all layers; null until calibrated.
    """

    KEY: ClassVar[str] = "exits"
    MODULES: ClassVar[str] = "Planned exits"

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

    def turned(self, dial: float) -> Self:
        """The dial is the tolerance."""
        return self.model_copy(update={"tolerance": dial})

    def facts(self) -> dict[str, Any]:
        """The tolerance."""
        return {"tolerance": self.tolerance}

    def calibrated_to(self) -> str:
        """The tolerance."""
        return "not calibrated yet" if self.tolerance is None else f"log tolerance {self.tolerance:.4g}"


class Routing(Section):
    """Settings of ``flexidepth`` and ``flexidepth-tokens``.

    Attributes:
        tau: A router above this probability skips its layer; token by token, for the token it was asked about.
        lenience: Logits that every router is more willing to skip by; ``dyslctl calibrate`` sets it.
    """

    KEY: ClassVar[str] = "routing"
    MODULES: ClassVar[str] = "Adapters and routers (FlexiDepth)"

    tau: Fraction = 0.5
    lenience: float = 0.0

    def turned(self, dial: float) -> Self:
        """The dial is the lenience."""
        return self.model_copy(update={"lenience": dial})

    def facts(self) -> dict[str, Any]:
        """What moves the threshold."""
        return {"tau": self.tau, "lenience": self.lenience}

    def calibrated_to(self) -> str:
        """What moves the threshold."""
        return f"tau = {self.tau:.4g}, lenience = {self.lenience:.4g}"


class Consistency(Section):
    """Settings of ``deer``.

    Attributes:
        share: Of the layers, that its thresholds run on average on the held-out states they are solved from.
    """

    KEY: ClassVar[str] = "consistency"
    MODULES: ClassVar[str] = "Exits that are left when two agree (DeeR)"

    share: Fraction = 0.75

    def turned(self, dial: float) -> Self:
        """The dial is minus the share."""
        return type(self)(share=-dial)

    def facts(self) -> dict[str, Any]:
        """The share."""
        return {"share": self.share}

    def calibrated_to(self) -> str:
        """The share."""
        return f"{self.share:.4g} of the layers on held-out states"


class Mixture(Section):
    """Settings of ``mole``.

    Attributes:
        share: Of the layers, that run.
    """

    KEY: ClassVar[str] = "mixture"
    MODULES: ClassVar[str] = "A router of layers (MoLe)"

    share: Fraction

    def turned(self, dial: float) -> Self:
        """The dial is minus the share."""
        return type(self)(share=-dial)

    def facts(self) -> dict[str, Any]:
        """The share."""
        return {"share": self.share}

    def calibrated_to(self) -> str:
        """The share."""
        return f"{self.share:.4g} of the layers"


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
        if len(self._sections()) != 1:
            raise ValueError("expected one of the sections exits, guidance, routing, consistency and mixture")
        return self

    @classmethod
    def of(cls, digest: str, section: Section, calibration: Calibration | None) -> Self:
        """Settings of the weights whose SHA-256 is ``digest``."""
        return cls.model_validate({"weights_sha256": digest, section.KEY: section, "calibration": calibration})

    @property
    def section(self) -> Section:
        """The one that is there."""
        return self._sections()[0]

    def _sections(self) -> list[Section]:
        return [value for _, value in self if isinstance(value, Section)]

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
