"""What a user may set about a checkpoint, and what follows from it. Nothing is guessed: a contradiction is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import ValidationError

from dyslctl.backbone import BackboneOptions
from dyslctl.errors import ConfigError
from dyslctl_openvla_oft.config import RELEASED, ActionConfig, Normalization, OFTConfig
from dyslctl_openvla_oft.statistics import DatasetStatistics, Statistics

Platform = Literal["libero", "aloha", "bridge"]
PLATFORMS: Mapping[Platform, Mapping[str, Any]] = {
    "libero": {"chunk_length": 8, "action_dim": 7, "proprio_dim": 8, "normalization": "bounds_q99"},
    "aloha": {
        "chunk_length": 25, "action_dim": 14, "proprio_dim": 14, "normalization": "bounds", "gripper": "none",
    },
    "bridge": {
        "chunk_length": 5, "action_dim": 7, "proprio_dim": 7, "normalization": "bounds_q99", "gripper": "none",
    },
}  # fmt: skip
"""The constants of the released code, which chooses among them by words in its command line."""


class CheckpointOptions(BackboneOptions):
    """``--set model.options.KEY=VALUE`` of both backbones; what is not set comes from the checkpoint.

    Attributes:
        unnorm_key: Entry of ``dataset_statistics.json`` to use; needed only if there are several. ``_no_noops`` may
            be left out.
        action_dim: See :class:`ActionConfig`, as for all that follow.
    """

    plugin: ClassVar[str]

    unnorm_key: str | None = None
    action_dim: int | None = None
    center_crop: bool | None = None
    jpeg: bool | None = None
    gripper: Literal["libero", "none"] | None = None

    def fixed(self) -> Mapping[str, Any]:
        """Fields of :class:`ActionConfig` that go before the file's, and behind what is set one by one."""
        return {}

    def applied_to(self, config: OFTConfig) -> OFTConfig:
        """``config`` with these settings laid over those of the file.

        Raises:
            ConfigError: If a value is out of range.
        """
        own = {name: value for name, value in self if name in ActionConfig.model_fields and value is not None}
        settings = {**config.oft.model_dump(), **self.fixed(), **own}
        try:
            return config.model_copy(update={"oft": ActionConfig.model_validate(settings)})
        except ValidationError as error:
            raise _refused(error, type(self)) from error


class OFTOptions(CheckpointOptions):
    """Of ``openvla-oft``.

    Attributes:
        platform: Sets chunk, action and proprioception sizes and the normalisation to those of a released platform.
    """

    plugin: ClassVar[str] = "openvla-oft"

    platform: Platform | None = None
    chunk_length: int | None = None
    proprio_dim: int | None = None
    use_proprio: bool | None = None
    num_images: int | None = None
    normalization: Normalization | None = None

    def fixed(self) -> Mapping[str, Any]:
        """The platform's."""
        return {"head": "l1", **({} if self.platform is None else PLATFORMS[self.platform])}


class OpenVLAOptions(CheckpointOptions):
    """Of ``openvla``, whose released code has fewer choices."""

    plugin: ClassVar[str] = "openvla"

    def fixed(self) -> Mapping[str, Any]:
        """One action from one view, normalised by quantiles."""
        names = ("head", "chunk_length", "use_proprio", "num_images", "normalization")
        return {name: getattr(RELEASED["tokens"], name) for name in names}


Options = TypeVar("Options", bound=CheckpointOptions)


def parse_options(values: Mapping[str, Any], kind: type[Options]) -> Options:
    """The checked options.

    Raises:
        ConfigError: If one is unknown or of a wrong type.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _refused(error, kind) from error


def choose_statistics(statistics: Statistics, key: str | None) -> DatasetStatistics:
    """The entry called ``key`` or ``key_no_noops``; without a key, the only one.

    Raises:
        ConfigError: If there is no such entry, or no key and several to choose from.
    """
    candidates = list(statistics)
    if key is None and len(candidates) == 1:
        return statistics[candidates[0]]
    for name in () if key is None else (key, f"{key}_no_noops"):
        if name in statistics:
            return statistics[name]
    problem = "has several data sets" if key is None else f"has no data set '{key}'"
    raise ConfigError(
        f"dataset_statistics.json {problem}: {', '.join(candidates)}",
        hint=f"--set model.options.unnorm_key={candidates[0] if candidates else 'KEY'}",
    )


def _refused(error: ValidationError, kind: type[CheckpointOptions]) -> ConfigError:
    problems = "\n  ".join(f"model.options.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    known = ", ".join(kind.model_fields)
    return ConfigError(f"{kind.plugin} options are not as expected\n  {problems}", hint=f"options: {known}")
