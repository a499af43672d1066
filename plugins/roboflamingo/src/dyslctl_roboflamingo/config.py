"""``roboflamingo.yaml``: what the weights do not say about themselves. It lies beside them; file names say nothing.

Defaults are those of the released 3B models: OpenFlamingo on MPT-1B.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from dyslctl.artifacts.document import Document, Part
from dyslctl.artifacts.files import atomic_write
from dyslctl.artifacts.strict_yaml import dump_yaml, read_yaml

SETTINGS = "roboflamingo.yaml"
FeatureTap = Literal["before_last_block", "after_last_block"]
"""Which hidden state the head reads.

MPT-1B's own code collects hidden states *before* each block, so that the last one collected is the input of the last
block, and that block computes nothing the action depends on. DeeR's copy of it, and MPT-7B, collect them after.
"""


class LanguageModel(Part):
    """MPT: pre-norm, ALiBi, exact GELU, a four times wider inner layer, no biases.

    Attributes:
        layers: ``L``, blocks in the checkpoint.
        width: ``H``.
        heads: Of the attention; a power of two.
        vocabulary: Rows of the embedding table, the three added tokens included.
        qk_norm: LayerNorm on all of the queries and of the keys, before they are split into heads (MPT-1B).
    """

    layers: int = Field(default=24, ge=2)
    width: int = Field(default=2048, ge=1)
    heads: int = Field(default=16, ge=1)
    vocabulary: int = Field(default=50280, ge=1)
    qk_norm: bool = True

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.width % self.heads or self.heads & (self.heads - 1):
            raise ValueError(f"heads: expected a power of two that divides the width {self.width}")
        return self


class CrossAttention(Part):
    """OpenFlamingo's gated cross-attention, from the words to the latents.

    Attributes:
        every: The layers ``i`` with ``(i + 1) % every == 0`` begin with one.
        heads: Of the attention.
        head_width: Of each.
    """

    every: int = Field(default=1, ge=1)
    heads: int = Field(default=8, ge=1)
    head_width: int = Field(default=64, ge=1)


class Vision(Part):
    """CLIP's vision transformer, ViT-L/14.

    Attributes:
        quick_gelu: ``x sigmoid(1.702 x)`` in the place of GELU: OpenAI's weights were trained with it, and do not say.
    """

    image_size: int = Field(default=224, ge=1)
    patch: int = Field(default=14, ge=1)
    width: int = Field(default=1024, ge=1)
    layers: int = Field(default=24, ge=1)
    heads: int = Field(default=16, ge=1)
    mlp: int = Field(default=4096, ge=1)
    quick_gelu: bool = True

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads: expected a divisor of the width {self.width}, found {self.heads}")
        return self

    @property
    def patches(self) -> int:
        """Of one view."""
        return (self.image_size // self.patch) ** 2


class Perceiver(Part):
    """The resampler: a view's patches to a few latents of the same width.

    Attributes:
        latents: Of one view.
    """

    latents: int = Field(default=64, ge=1)
    layers: int = Field(default=6, ge=1)
    heads: int = Field(default=8, ge=1)
    head_width: int = Field(default=64, ge=1)


class Head(Part):
    """LSTM and two MLPs.

    Attributes:
        window: Inferences that the head looks back on, the present one included.
        width: Of the LSTM.
        layers: Of the LSTM.
        mlp: Inner widths of both MLPs.
    """

    window: int = Field(default=12, ge=1)
    width: int = Field(default=1024, ge=1)
    layers: int = Field(default=4, ge=1)
    mlp: tuple[int, ...] = (1024, 512, 256)


class Files(Part):
    """Where the weights are, relative to the folder; ``.pt``, ``.pth``, ``.bin`` or ``.safetensors``.

    Attributes:
        policy: RoboFlamingo's own file.
        vision: CLIP, as ``transformers`` or ``open_clip`` names its tensors; ``None``: it is in ``policy``.
        openflamingo: OpenFlamingo's ``checkpoint.pt``, for what ``policy`` does not hold.
        language_model: MPT, for what neither holds: the final norm of MPT-7B.
    """

    policy: str
    vision: str | None = None
    openflamingo: str | None = None
    language_model: str | None = None

    @property
    def by_precedence(self) -> tuple[str, ...]:
        """All of them, what goes before the others last."""
        order = (self.language_model, self.openflamingo, self.vision, self.policy)
        return tuple(name for name in order if name is not None)


class Settings(Document):
    """The content of ``roboflamingo.yaml``.

    Attributes:
        feature_tap: What the head reads.
        final_norm: The head reads it through MPT's final norm.
        max_tokens: Prompts are cut to that many tokens.
    """

    SCHEMA: ClassVar[str] = "dyslctl.roboflamingo/1"

    files: Files
    feature_tap: FeatureTap = "before_last_block"
    final_norm: bool = False
    max_tokens: int = Field(default=32, ge=4)
    language_model: LanguageModel = LanguageModel()
    cross_attention: CrossAttention = CrossAttention()
    vision: Vision = Vision()
    perceiver: Perceiver = Perceiver()
    head: Head = Head()

    @model_validator(mode="after")
    def _norm_of_the_last(self) -> Self:
        if self.final_norm and self.feature_tap == "before_last_block":
            raise ValueError("final_norm: MPT's final norm comes after the last block, feature_tap is before it")
        return self

    @property
    def live_layers(self) -> int:
        """Layers that the action depends on."""
        return self.language_model.layers - (self.feature_tap == "before_last_block")

    @classmethod
    def read(cls, folder: Path) -> Settings:
        """Of the checkpoint in ``folder``.

        Raises:
            ArtifactError: If the file is missing, damaged, or a value is wrong; all wrong keys at once.
        """
        path = folder / SETTINGS
        hint = f"python -m dyslctl_roboflamingo settings --size 3b --policy FILE --vision FILE > {path}"
        return cls.parse(read_yaml(path, hint), str(path))

    def text(self) -> str:
        """The file's content."""
        return dump_yaml(self.dump())

    def save(self, folder: Path) -> None:
        """Write it into ``folder``.

        Raises:
            EnvironmentMismatch: If it cannot be written.
        """
        atomic_write(folder / SETTINGS, self.text())


SIZES: Mapping[str, Mapping[str, Any]] = {
    "3b": {},
    "9b": {
        "feature_tap": "after_last_block",
        "final_norm": True,
        "language_model": {"layers": 32, "width": 4096, "heads": 32, "qk_norm": False},
        "cross_attention": {"every": 4},
    },
    "tiny": {
        "language_model": {"layers": 8, "width": 32, "heads": 4, "vocabulary": 2048},
        "cross_attention": {"heads": 2, "head_width": 8},
        "vision": {"image_size": 28, "width": 24, "layers": 2, "heads": 2, "mlp": 40},
        "perceiver": {"latents": 6, "layers": 2, "heads": 2, "head_width": 8},
        "head": {"width": 20, "layers": 2, "mlp": [24, 16, 12]},
    },
}
"""The released models on MPT-1B and MPT-7B, and one for tests: what differs from the defaults."""


def settings_of(size: str, files: Files) -> Settings:
    """The settings of one of :data:`SIZES`."""
    raw = {"schema": Settings.SCHEMA, "files": files.model_dump(), **SIZES[size]}
    return Settings.parse(raw, f"size {size}")
