"""What OpenVLA and OpenVLA-OFT share: two vision towers, a projector, and the layers of stock LLaMA.

The sequence begins, with ``V`` views of ``p`` patches::

    BOS | view 0 (p) | ... | view V-1 (p) | ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, rotate_half

from dyslctl.errors import ConfigError
from dyslctl.runtime.llama import LlamaWeights
from dyslctl.types import LayerState, TokenKind
from dyslctl_openvla_oft.cache import CACHE, Extended
from dyslctl_openvla_oft.config import AttentionImplementation, OFTConfig
from dyslctl_openvla_oft.vision import FusedVisionBackbone


class Projector(nn.Module):
    """Patch features to the language model's width: three linear layers, GELU between."""

    def __init__(self, vision_width: int, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_width, 4 * vision_width)
        self.fc2 = nn.Linear(4 * vision_width, hidden_size)
        self.fc3 = nn.Linear(hidden_size, hidden_size)

    def forward(self, features: Tensor) -> Tensor:
        """``[B, T, vision width]`` -> ``[B, T, H]``."""
        projected: Tensor = self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(features)))))
        return projected


RotaryTables = tuple[Tensor, Tensor]
"""Cosines and sines, each ``[B, T, head_dim]``."""


@dataclass(frozen=True)
class LayerContext:
    """What every decoder layer derives from positions and padding, computed once.

    Attributes:
        rotary: At the original positions.
        attention_mask: ``[B, 1, T, T]`` added to the scores, or ``None`` without padding.
    """

    rotary: RotaryTables
    attention_mask: Tensor | None


class PrismaticModel(nn.Module, ABC):
    """The parts of a checkpoint that an inference reads, under their published names. Subclasses add a head.

    Attributes:
        causal: A token attends to itself and to those before it only.

    Args:
        config: Sizes, ids.
        attn_implementation: ``sdpa``: the fused kernel, the upstream bits. ``eager``: the softmax written out, much
            faster to train in bfloat16 on a CPU.
    """

    causal: ClassVar[bool] = False

    def __init__(self, config: OFTConfig, attn_implementation: AttentionImplementation = "sdpa") -> None:
        super().__init__()
        llama, vision = config.llama(attn_implementation), config.vision_config
        self.config = config
        self.vision_backbone = FusedVisionBackbone(vision, config.image_size, attn_implementation)
        self.projector = Projector(vision.dino.width + vision.siglip.width, int(llama.hidden_size))
        self.language_model = LlamaModel(llama)
        self._restore_rotary("cpu")

    @property
    def num_layers(self) -> int:
        """``L``."""
        return len(self.language_model.layers)

    @property
    def hidden_size(self) -> int:
        """``H``."""
        return int(self.language_model.config.hidden_size)

    def _restore_rotary(self, device: torch.device | str) -> None:
        """Rotary frequencies in float32, on a real device even where the parameters are ``meta``."""
        with torch.device("cpu"):
            rotary = LlamaRotaryEmbedding(self.language_model.config)
        self.language_model.rotary_emb = rotary.to(device)
        self._positions: Tensor | None = None
        self._tables: tuple[Tensor, RotaryTables] | None = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # ``model.to(bfloat16)`` would round the rotary frequencies too: angles are then off by up to 0.6 rad at
        # distance 500. They are not weights; build them anew on the parameters' device.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._restore_rotary(self.projector.fc1.weight.device)
        return self

    def _prefix_kinds(self, like: Tensor) -> Tensor:
        """Of all tokens before the prompt, one row for each of ``like``."""
        views = torch.arange(self.config.oft.num_images, device=like.device) + int(TokenKind.VISION)
        patches = views.repeat_interleave(self.config.num_patches)
        proprio = int(self.config.oft.use_proprio)
        kinds = F.pad(F.pad(patches, (1, 0), value=TokenKind.BOS), (0, proprio), value=TokenKind.PROPRIO)
        return kinds.expand(len(like), -1)

    def positions(self, hidden: Tensor) -> Tensor:
        """``[B, T]`` int64, 0, 1, ... in each row of ``[B, T, H]``.

        At inference the very tensor of the last time, as long as it fits: so :meth:`rotary` knows it again without
        comparing numbers, for which a GPU would have to be waited for.
        """
        last, keep = self._positions, torch.is_inference_mode_enabled()
        if keep and last is not None and last.shape == hidden.shape[:2] and last.device == hidden.device:
            return last
        positions = torch.arange(hidden.shape[1], device=hidden.device).expand(len(hidden), -1)
        self._positions = positions if keep else None
        return positions

    def rotary(self, hidden: Tensor, positions: Tensor) -> RotaryTables:
        """The tables for tokens ``[B, T, H]`` at ``positions``; at inference those of the last time, if they fit."""
        last, keep = self._tables, torch.is_inference_mode_enabled()
        if keep and last is not None and last[0] is positions and last[1][0].dtype == hidden.dtype:
            return last[1]
        tables: RotaryTables = self.language_model.rotary_emb(hidden, positions)
        self._tables = (positions, tables) if keep else None
        return tables

    def layers(self, index: int) -> nn.Module:
        """Decoder layer ``index``."""
        layer: nn.Module = self.language_model.layers[index]
        return layer

    def layer_weights(self, index: int) -> LlamaWeights:
        """The weights of decoder layer ``index``.

        Raises:
            ConfigError: If it is no layer of LLaMA-2: biases, or another activation.
        """
        config = self.language_model.config
        found = config.attention_bias, config.mlp_bias, config.hidden_act
        if found != (False, False, "silu"):
            raise ConfigError(
                f"text_config: packed layers have neither biases nor another activation than silu, found {found}",
                hint="--set model.backend=eager",
            )
        layer: Any = self.layers(index)
        attention, mlp = layer.self_attn, layer.mlp
        return LlamaWeights(
            q=attention.q_proj.weight,
            k=attention.k_proj.weight,
            v=attention.v_proj.weight,
            o=attention.o_proj.weight,
            gate=mlp.gate_proj.weight,
            up=mlp.up_proj.weight,
            down=mlp.down_proj.weight,
            attention_norm=layer.input_layernorm.weight,
            mlp_norm=layer.post_attention_layernorm.weight,
            head_dim=int(attention.head_dim),
            eps=float(layer.input_layernorm.variance_epsilon),
        )

    @abstractmethod
    def context(self, hidden: Tensor, positions: Tensor, mask: Tensor | None) -> LayerContext:
        """Tables for tokens ``[B, T, H]`` at ``positions`` ``[B, T]``; ``mask`` ``[B, T]`` is true for real tokens."""

    def attention_rows(self, index: int, hidden: Tensor, context: LayerContext, queries: Tensor) -> Tensor:
        """See :meth:`Backbone.attention_rows`; ``hidden`` ``[B, T, H]`` is what enters layer ``index``."""
        layer: Any = self.layers(index)
        keys = _keys(layer.self_attn, layer.input_layernorm(hidden), context)
        return self.rows_of(index, hidden, context, queries, keys)

    def keys_values(self, index: int, hidden: Tensor, context: LayerContext) -> tuple[Tensor, Tensor]:
        """Of layer ``index`` for ``[B, T, H]``, as :meth:`attend` makes them: ``[B, heads, T, head_dim]`` each."""
        layer: Any = self.layers(index)
        attention, normed = layer.self_attn, layer.input_layernorm(hidden)
        return _keys(attention, normed, context), _heads(attention.v_proj(normed), attention.head_dim)

    def rows_of(self, index: int, hidden: Tensor, context: LayerContext, queries: Tensor, keys: Tensor) -> Tensor:
        """The same from the layer's ``keys``, ``[B, heads, T, head_dim]``, rotary embedding included."""
        layer: Any = self.layers(index)
        attention, asking = layer.self_attn, layer.input_layernorm(_rows(hidden, queries))
        cos, sin = (_rows(table, queries) for table in context.rotary)
        q = _rotated(_heads(attention.q_proj(asking), attention.head_dim), cos, sin)
        k = keys.repeat_interleave(q.shape[1] // keys.shape[1], dim=1)
        scores = q.float() @ k.float().transpose(2, 3) * float(attention.scaling)
        return (scores + self.added(context, queries)).softmax(-1)

    def attend(
        self, index: int, hidden: Tensor, context: LayerContext, before: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Decoder layer ``index`` on ``[B, T, H]``, whose tokens also attend to others' keys and values.

        Args:
            index: Which layer.
            hidden: What enters it.
            context: Of these tokens; its mask, if it has one, is over all keys, those of others first.
            before: Keys and values of others, ``[B, heads, N, head_dim]`` each, or nothing.

        Returns:
            These tokens' output ``[B, T, H]``, and the keys and values of all, ``[B, heads, N + T, head_dim]`` each.
        """
        cache = Extended(before)
        output: Tensor = self.layers(index)(
            hidden,
            attention_mask=context.attention_mask,
            position_embeddings=context.rotary,
            **{CACHE: cache},
            is_causal=self.causal and not before and context.attention_mask is None,
        )
        return output, cache.kept

    def beside(self, state: LayerState, context: LayerContext, positions: Tensor) -> LayerContext:
        """``context`` for a layer where ``state``'s tokens also attend to others at ``positions`` ``[B, N]``."""
        real = torch.ones_like(state.kinds, dtype=torch.bool) if state.mask is None else state.mask
        seen = torch.cat([torch.ones_like(positions, dtype=torch.bool), real], 1)[:, None]
        if self.causal:
            seen = seen & (torch.cat([positions, state.positions], 1)[:, None] <= state.positions[..., None])
        elif state.mask is None:
            return LayerContext(context.rotary, None)
        lowest = torch.finfo(state.hidden.dtype).min
        mask = torch.zeros_like(seen, dtype=state.hidden.dtype).masked_fill(~seen, lowest)[:, None]
        return LayerContext(context.rotary, mask.expand(-1, -1, state.kinds.shape[1], -1))

    @abstractmethod
    def added(self, context: LayerContext, queries: Tensor) -> Tensor:
        """What is added to the scores of ``queries`` ``[B, Q]``: float32 that broadcasts to ``[B, heads, Q, T]``."""

    @abstractmethod
    def run_layer(self, index: int, hidden: Tensor, context: LayerContext) -> Tensor:
        """``[B, T, H]`` through decoder layer ``index``."""


def _rows(values: Tensor, queries: Tensor) -> Tensor:
    """``[B, T, d]`` at ``queries`` ``[B, Q]``: ``[B, Q, d]``."""
    return values.gather(1, queries[..., None].expand(-1, -1, values.shape[-1]))


def _heads(values: Tensor, width: int) -> Tensor:
    """``[B, T, heads * width]`` -> ``[B, heads, T, width]``."""
    return values.view(*values.shape[:2], -1, width).transpose(1, 2)


def _keys(attention: Any, normed: Tensor, context: LayerContext) -> Tensor:
    """``[B, T, H]`` -> ``[B, heads, T, head_dim]``, rotary embedding included."""
    return _rotated(_heads(attention.k_proj(normed), attention.head_dim), *context.rotary)


def _rotated(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of ``[B, heads, T, width]`` by tables ``[B, T, width]``, as upstream rounds it."""
    turned: Tensor = values * cos[:, None] + rotate_half(values) * sin[:, None]
    return turned
