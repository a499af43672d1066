"""What the two files of a bundle say of its method: the settings it runs with, and the sizes of its modules."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

from dyslctl.artifacts.document import Part


class Section(Part):
    """What one method, or several alike, run with: the section of ``bundle.yaml`` that is theirs.

    Attributes:
        KEY: Of the section.
        MODULES: What the bundle holds, for the model card.
    """

    KEY: ClassVar[str]
    MODULES: ClassVar[str]

    @abstractmethod
    def turned(self, dial: float) -> Self:
        """These settings with the method's dial at ``dial``, wherever it stood."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """The calibrated numbers by name; ``None`` before calibration."""

    @abstractmethod
    def calibrated_to(self) -> str:
        """The same in words, for the model card."""


class Sizes(Part):
    """Sizes of the modules of one method, or of several alike, as the bundle's header has them.

    Attributes:
        RUN_WITH: The sections that such modules run with.
    """

    RUN_WITH: ClassVar[tuple[type[Section], ...]]

    @abstractmethod
    def in_words(self) -> str:
        """For the model card."""
