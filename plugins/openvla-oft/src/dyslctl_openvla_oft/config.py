"""``config.json`` of an OpenVLA or OpenVLA-OFT checkpoint, and the sizes that follow from it.

A published file names its towers by id and says nothing about the action head; those sizes are constants of the
released code and are the defaults here. Two optional keys, ``vision_config`` and ``oft``, describe other sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from transformers import LlamaConfig

AttentionImplementation = Literal["sdpa", "eager"]
Normalization = Literal["bounds_q99", "bounds"]
"""Which bounds are mapped to -1 and 1: the 1 % and 99 % quantiles, or minimum and maximum."""
Head = Literal["l1", "tokens"]
"""OpenVLA-OFT regresses a chunk of actions at once; OpenVLA generates one action, a token for each dimension."""


class TowerConfig(BaseModel):
    """Sizes of one vision transformer.

    Attributes:
        depth: Blocks in the checkpoint. The feature is the output of the one before the last.
        registers: Learned tokens between the class token and the patches; ``None``: no class token either.
        layer_scale: Each residual branch is scaled by a learned vector (DINOv2).
        attention_pool: The checkpoint carries a pooling head (SigLIP), which a VLA never reads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int
    depth: int = Field(ge=2)
    heads: int
    patch: int = 14
    mlp: int
    registers: int | None = None
    layer_scale: bool = False
    attention_pool: bool = False

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the first patch: the class token and the registers."""
        return 0 if self.registers is None else 1 + self.registers


class DinoConfig(TowerConfig):
    """DINOv2 ViT-L/14 with four registers (timm ``vit_large_patch14_reg4_dinov2``), or a smaller one."""

    width: int = 1024
    depth: int = Field(default=24, ge=2)
    heads: int = 16
    mlp: int = 4096
    registers: int | None = 4
    layer_scale: bool = True


class SiglipConfig(TowerConfig):
    """SigLIP so400m/14 (timm ``vit_so400m_patch14_siglip_224``), or a smaller one."""

    width: int = 1152
    depth: int = Field(default=27, ge=2)
    heads: int = 16
    mlp: int = 4304
    attention_pool: bool = True


class VisionConfig(BaseModel):
    """Both towers, in the order their features are concatenated."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dino: DinoConfig = DinoConfig()
    siglip: SiglipConfig = SiglipConfig()


VIEWS: Mapping[int, tuple[str, ...]] = {
    1: ("third person",),
    2: ("third person", "wrist"),
    3: ("third person", "left wrist", "right wrist"),
}


class ActionConfig(BaseModel):
    """What the released code takes from its command line: chunk, proprioception, views. Defaults: LIBERO.

    Attributes:
        head: How actions are predicted.
        chunk_length: ``N``.
        action_dim: ``A``.
        proprio_dim: ``P``.
        use_proprio: The sequence has a proprioception token.
        num_images: Camera views.
        normalization: Of actions and proprioception.
        center_crop: Crop 90 % of the area before the towers (the model was trained with random crops).
        jpeg: Images that must be resized are first compressed, as those of the training set were.
        gripper: How the last action dimension is executed. ``libero``: 1 is open, 0 is closed in the model's space;
            -1 opens and +1 closes the robot's. ``none``: it is an ordinary dimension.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    head: Head = "l1"
    chunk_length: int = Field(default=8, ge=1)
    action_dim: int = Field(default=7, ge=1)
    proprio_dim: int = Field(default=8, ge=1)
    use_proprio: bool = True
    num_images: int = Field(default=2, ge=1, le=4)
    normalization: Normalization = "bounds_q99"
    center_crop: bool = True
    jpeg: bool = True
    gripper: Literal["libero", "none"] = "libero"

    @model_validator(mode="after")
    def _one_action(self) -> Self:
        if self.head == "tokens" and (self.chunk_length, self.use_proprio, self.num_images) != (1, False, 1):
            raise ValueError("a model that generates tokens predicts 1 action from 1 view without proprioception")
        return self

    @property
    def views(self) -> tuple[str, ...]:
        """What the camera views show, in the order of the released code."""
        return VIEWS.get(self.num_images, tuple(f"view {number + 1}" for number in range(self.num_images)))

    @property
    def num_action_tokens(self) -> int:
        """One token for each dimension of each action, ``N * A``."""
        return self.chunk_length * self.action_dim


RELEASED: Mapping[Head, ActionConfig] = {
    "l1": ActionConfig(),
    "tokens": ActionConfig(head="tokens", chunk_length=1, use_proprio=False, num_images=1),
}
"""What released files leave unsaid."""


class OFTConfig(BaseModel):
    """``config.json``. Keys that only the released code reads are kept as they are.

    Attributes:
        image_sizes: Input size of each tower in pixels; both are equal.
        text_config: What differs from ``LlamaConfig()``, which is LLaMA-2-7B.
        pad_token_id: Checked against the tokenizer's.
        n_action_bins: Edges between -1 and 1 that a generated action dimension lies between.
        pad_to_multiple_of: Embeddings that belong to no token, at the end of the table.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    model_type: Literal["openvla"] = "openvla"
    vision_backbone_id: Literal["dinosiglip-vit-so-224px"] = "dinosiglip-vit-so-224px"
    llm_backbone_id: str = "llama2-7b-pure"
    image_sizes: tuple[int, int] = (224, 224)
    pad_token_id: int = 32000
    n_action_bins: int = Field(default=256, ge=2)
    pad_to_multiple_of: int = Field(default=64, ge=0)
    text_config: dict[str, Any] = Field(default_factory=dict)
    vision_config: VisionConfig = VisionConfig()
    oft: ActionConfig = ActionConfig()

    @model_validator(mode="after")
    def _one_grid(self) -> Self:
        towers = (self.vision_config.dino, self.vision_config.siglip)
        grids = {size // tower.patch for size, tower in zip(self.image_sizes, towers, strict=True)}
        if len(set(self.image_sizes)) != 1 or len(grids) != 1:
            raise ValueError(f"both towers need one image size and one patch grid, found {self.image_sizes}")
        return self

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        """Older ``transformers`` build a model of such sizes, rounded down."""
        llama = self.llama()
        if llama.hidden_size % llama.num_attention_heads:
            raise ValueError(
                f"text_config: the hidden size ({llama.hidden_size}) is not a multiple of the number of attention "
                f"heads ({llama.num_attention_heads})"
            )
        return self

    @property
    def image_size(self) -> int:
        """Height and width of an input image, pixels."""
        return self.image_sizes[0]

    @property
    def num_patches(self) -> int:
        """Patches of one view."""
        return (self.image_size // self.vision_config.dino.patch) ** 2

    def llama(self, attn_implementation: AttentionImplementation = "sdpa") -> LlamaConfig:
        """The language model's configuration."""
        config = LlamaConfig.from_dict({**self.text_config, "use_cache": False})
        config._attn_implementation = attn_implementation
        return config
