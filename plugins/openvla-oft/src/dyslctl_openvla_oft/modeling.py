"""OpenVLA-OFT: stock LLaMA layers run without causal mask, and an L1 action head.

The sequence, with ``V`` views of ``p`` patches and a prompt of ``T`` tokens whose last one is the lone space ``▁``::

    BOS | view 0 (p) | ... | view V-1 (p) | proprio | prompt (T) | N * A zero vectors | stop

A model without proprioception has no such token. The head reads one token early: the hidden states of the last prompt
token and of all placeholders but the last.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyslctl.types import LayerInputs, TokenKind
from dyslctl_openvla_oft.config import AttentionImplementation, OFTConfig
from dyslctl_openvla_oft.prismatic import LayerContext, PrismaticModel


class ProprioProjector(nn.Module):
    """``[B, P]`` normalised proprioception to one token ``[B, H]``."""

    def __init__(self, proprio_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(proprio_dim, hidden_size)
        self.fc2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, proprio: Tensor) -> Tensor:
        """``[B, P]`` -> ``[B, H]``."""
        projected: Tensor = self.fc2(F.gelu(self.fc1(proprio)))
        return projected


class ResidualBlock(nn.Module):
    """``x + ReLU(Linear(LN(x)))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, hidden: Tensor) -> Tensor:
        """Same shape out as in."""
        branch: Tensor = self.ffn(hidden)
        return hidden + branch


class MLPResNet(nn.Module):
    """LN -> Linear -> ReLU -> two residual blocks -> LN -> Linear; no bound on the output."""

    def __init__(self, input_size: int, width: int, output_size: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(input_size)
        self.fc1 = nn.Linear(input_size, width)
        self.mlp_resnet_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(2))
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, output_size)

    def forward(self, features: Tensor) -> Tensor:
        """``[..., input_size]`` -> ``[..., output_size]``."""
        hidden = F.relu(self.fc1(self.layer_norm1(features)))
        for block in self.mlp_resnet_blocks:
            hidden = block(hidden)
        output: Tensor = self.fc2(self.layer_norm2(hidden))
        return output


class ActionHead(nn.Module):
    """One action from the ``A`` hidden states of its dimensions, by L1 regression."""

    def __init__(self, hidden_size: int, chunk_length: int, action_dim: int) -> None:
        super().__init__()
        self.chunk_length = chunk_length
        self.model = MLPResNet(action_dim * hidden_size, hidden_size, action_dim)

    def forward(self, features: Tensor) -> Tensor:
        """``[B, N * A, H]`` -> ``[B, N, A]`` normalised actions."""
        actions: Tensor = self.model(features.reshape(len(features), self.chunk_length, -1))
        return actions


@dataclass(frozen=True)
class OFTOutput:
    """A full forward pass.

    Attributes:
        actions: ``[B, N, A]`` normalised.
        taps: Layer -> its output ``[B, T, H]``, for the layers asked for.
        inputs: What entered layer 0.
    """

    actions: Tensor
    taps: Mapping[int, Tensor] = field(repr=False)
    inputs: LayerInputs = field(repr=False)


class OFTModel(PrismaticModel):
    """The model of the checkpoint; every token attends to every other, in either attention implementation."""

    def __init__(self, config: OFTConfig, attn_implementation: AttentionImplementation = "sdpa") -> None:
        super().__init__(config, attn_implementation)
        oft, hidden = config.oft, self.hidden_size
        self.stop_id = int(self.language_model.config.eos_token_id)
        self.proprio_projector = ProprioProjector(oft.proprio_dim, hidden) if oft.use_proprio else None
        self.action_head = ActionHead(hidden, oft.chunk_length, oft.action_dim)
        self._last_kinds: tuple[tuple[list[int], torch.device], Tensor] | None = None

    def embed(self, pixel_values: Tensor, proprio: Tensor | None, input_ids: Tensor, lengths: Tensor) -> LayerInputs:
        """Lay out the sequence. Shorter prompts are padded at the very end, after the stop token.

        Args:
            pixel_values: ``[B, 6 * V, s, s]``, see :class:`FusedVisionBackbone`.
            proprio: ``[B, P]`` normalised; not read by a model without proprioception.
            input_ids: ``[B, 1 + T]`` int64: BOS, prompt, the lone space; whatever follows it in a row is ignored.
            lengths: ``[B]`` int64, ids of each row that count, BOS included. On the CPU: its values decide shapes.
        """
        kinds = self._kinds(lengths, input_ids.device)
        ids = F.pad(input_ids[:, 1 : int(lengths.max())], (0, self.config.oft.num_action_tokens + 1))
        own = kinds[:, -ids.shape[1] :]
        tail = self.language_model.embed_tokens(ids.masked_fill(own != TokenKind.TEXT, self.stop_id))
        tail = tail.masked_fill((own == TokenKind.ACTION)[..., None], 0)
        bos = self.language_model.embed_tokens(input_ids[:, :1])
        patches = self.projector(self.vision_backbone(pixel_values))
        state = [] if self.proprio_projector is None else [self.proprio_projector(proprio)[:, None]]
        hidden = torch.cat([bos, patches, *state, tail], dim=1)
        positions = self.positions(hidden)
        padded = bool((lengths != lengths[0]).any())
        return LayerInputs(hidden, positions, kinds, kinds != TokenKind.PAD if padded else None)

    def _kinds(self, lengths: Tensor, device: torch.device) -> Tensor:
        """Of the whole sequence, ``[B, T]``; at inference the very tensor of the last time, as :meth:`positions`."""
        wanted, last, keep = (lengths.tolist(), device), self._last_kinds, torch.is_inference_mode_enabled()
        if keep and last is not None and last[0] == wanted:
            return last[1]
        actions, text = self.config.oft.num_action_tokens, (lengths.to(device) - 1)[:, None]
        index = torch.arange(int(lengths.max()) + actions, device=device).expand(len(lengths), -1)
        tail = torch.full_like(index, TokenKind.PAD)
        tail[index <= text + actions] = TokenKind.STOP
        tail[index < text + actions] = TokenKind.ACTION
        tail[index < text] = TokenKind.TEXT
        kinds = torch.cat([self._prefix_kinds(tail), tail], dim=1)
        self._last_kinds = (wanted, kinds) if keep else None
        return kinds

    def context(self, hidden: Tensor, positions: Tensor, mask: Tensor | None) -> LayerContext:
        """Tables for tokens ``[B, T, H]`` at ``positions`` ``[B, T]``; ``mask`` ``[B, T]`` is true for real tokens."""
        rotary = self.rotary(hidden, positions)
        if mask is None:
            return LayerContext(rotary, None)
        lowest = torch.finfo(hidden.dtype).min
        keys = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, lowest)
        return LayerContext(rotary, keys[:, None, None].expand(-1, 1, mask.shape[1], -1))

    def run_layer(self, index: int, hidden: Tensor, context: LayerContext) -> Tensor:
        """``[B, T, H]`` through decoder layer ``index``; every token attends to every real token."""
        # Without a mask SDPA would fall back to the module's ``is_causal=True``.
        output: Tensor = self.layers(index)(
            hidden,
            attention_mask=context.attention_mask,
            position_embeddings=context.rotary,
            is_causal=False,
        )
        return output

    def added(self, context: LayerContext, queries: Tensor) -> Tensor:
        """Padding, the same for every query."""
        mask = context.attention_mask
        return queries.new_zeros((), dtype=torch.float32) if mask is None else mask[:, :, :1].float()

    def read_out(self, hidden: Tensor, kinds: Tensor) -> Tensor:
        """The ``[B, N * A, H]`` hidden states the head reads: one token before each placeholder.

        Args:
            hidden: ``[B, T, H]``.
            kinds: ``[B, T]``; tokens may have been dropped, but neither the last prompt token nor a placeholder.
        """
        first = (kinds == TokenKind.ACTION).int().argmax(dim=1, keepdim=True) - 1
        index = first + torch.arange(self.config.oft.num_action_tokens, device=hidden.device)
        return hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))

    def predict(self, hidden: Tensor, kinds: Tensor) -> Tensor:
        """Final norm and head on the last layer's output: ``[B, N, A]`` normalised actions."""
        actions: Tensor = self.action_head(self.language_model.norm(self.read_out(hidden, kinds)))
        return actions

    def forward(
        self,
        pixel_values: Tensor,
        proprio: Tensor | None,
        input_ids: Tensor,
        lengths: Tensor,
        taps: Collection[int] = (),
    ) -> OFTOutput:
        """The whole model, differentiable; arguments as in :meth:`embed`. ``taps``: layers whose output to keep."""
        inputs = self.embed(pixel_values, proprio, input_ids, lengths)
        context, hidden, kept = self.context(inputs.hidden, inputs.positions, inputs.mask), inputs.hidden, {}
        for index in range(self.num_layers):
            hidden = self.run_layer(index, hidden, context)
            if index in taps:
                kept[index] = hidden
        return OFTOutput(self.predict(hidden, inputs.kinds), kept, inputs)
