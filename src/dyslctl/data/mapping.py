"""Which column of a data set is what: a YAML file, or one of the shipped presets."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from dyslctl.artifacts.document import Document, Part
from dyslctl.artifacts.strict_yaml import parse_yaml, read_yaml
from dyslctl.errors import ConfigError
from dyslctl.plugins import did_you_mean

PRESETS = ("calvin", "huggingfacevla-libero", "lerobot", "libero-hdf5", "openpi-libero")
OF_DATASETS: Mapping[str, str] = {
    "HuggingFaceVLA/libero": "huggingfacevla-libero",
    "lerobot/libero": "huggingfacevla-libero",
    "physical-intelligence/libero": "openpi-libero",
}
"""Hub data sets whose preset is known."""
BESIDE = "data-map.yaml"
"""A data set that brings its own column mapping has it in its folder, under this name."""


class View(Part):
    """One camera.

    Attributes:
        column: Where its images are.
        rotate: Degrees counter-clockwise that make them upright.
    """

    column: str
    rotate: Literal[0, 90, 180, 270] = 0


class Gripper(Part):
    """How the data set writes the gripper action; episodes give it as suites execute it.

    Attributes:
        index: Its dimension in an action; negative counts from the end.
        open: The value that opens.
        closed: The value that closes.
        executed_open: The value that opens when a suite executes it, the opposite one closes: 1 for CALVIN.
    """

    index: int = -1
    open: float
    closed: float
    executed_open: Literal[-1, 1] = -1

    @model_validator(mode="after")
    def _two_values(self) -> Self:
        if self.open == self.closed:
            raise ValueError(f"open and closed must differ, found {self.open} for both")
        return self

    def executed(self, actions: np.ndarray) -> np.ndarray:
        """``[T, A]`` with the gripper on the line through (open, executed_open) and (closed, -executed_open), float32.

        Raises:
            ConfigError: If actions have no such dimension.
        """
        if not -actions.shape[1] <= self.index < actions.shape[1]:
            raise ConfigError(
                f"--data-map: gripper.index is {self.index}, but actions have {actions.shape[1]} dimensions"
            )
        result = np.array(actions, np.float32)
        share = (actions[:, self.index] - self.open) / (self.closed - self.open)
        result[:, self.index] = self.executed_open * (1 - 2 * share)
        return result


class DataMap(Document):
    """The columns of a data set.

    Attributes:
        views: View name -> camera, in the order in which the model reads them; null (LeRobot only): every image
            column, in the order of ``meta/info.json``.
        proprio: Columns that make up the robot's state, one behind the other; empty if the model reads none.
        action: Column of the actions.
        gripper: How the gripper action is written; null: there is none, or it is left as it is.
        noop_threshold: Steps are dropped that move by less than this (Euclidean norm of the action without the
            gripper) and leave the gripper as the last kept step had it; null keeps all.
        execute_horizon: Actions executed before the next inference where the data set was recorded; null: not known.
    """

    SCHEMA: ClassVar[str] = "dyslctl.data-map/1"

    views: Annotated[dict[str, View], Field(min_length=1)] | None = None
    proprio: tuple[str, ...] = ()
    action: str
    gripper: Gripper | None = None
    noop_threshold: Annotated[float, Field(gt=0)] | None = None
    execute_horizon: Annotated[int, Field(gt=0)] | None = None

    @classmethod
    def load(cls, name: str) -> Self:
        """A preset by its name, or a YAML file by its path.

        Raises:
            ArtifactError: If the file is missing, damaged, or wrong in any key.
            ConfigError: If it is neither.
        """
        if name in PRESETS:
            text = files("dyslctl.data").joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")
            return cls.parse(parse_yaml(text, name), f"the preset {name}")
        if Path(name).suffix in (".yaml", ".yml"):
            return cls.parse(read_yaml(Path(name)), name)
        raise ConfigError(
            f"--data-map: '{name}' is neither a preset nor a .yaml file.{did_you_mean(name, list(PRESETS))}\n"
            f"  presets: {', '.join(PRESETS)}",
            hint="docs/data.md shows the file",
        )

    def cameras(self, image_columns: Mapping[str, str]) -> Mapping[str, View]:
        """The cameras to read, of those that a LeRobot data set has: view name -> column."""
        return self.views or {name: View(column=column) for name, column in image_columns.items()}

    def kept(self, actions: np.ndarray) -> np.ndarray:
        """Steps to keep of ``[T, A]`` executed actions, ascending: the filter of the released OpenVLA-OFT data.

        noop(a_t) = |a_t without gripper| < threshold  and  gripper(a_t) = gripper(last kept step)

        Before the first kept step only the norm counts.
        """
        if self.noop_threshold is None:
            return np.arange(len(actions))
        gripper = None if self.gripper is None else self.gripper.index % actions.shape[1]
        motion = np.linalg.norm(np.delete(actions, [] if gripper is None else gripper, axis=1), axis=1)
        kept: list[int] = []
        for step in range(len(actions)):
            same = not kept or gripper is None or actions[step, gripper] == actions[kept[-1], gripper]
            if motion[step] >= self.noop_threshold or not same:
                kept.append(step)
        return np.array(kept, np.int64)
