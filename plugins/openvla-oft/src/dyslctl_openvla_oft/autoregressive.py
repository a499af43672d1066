"""OpenVLA: causal LLaMA layers, and an action that is generated token by token.

The sequence, with a prompt of ``T`` tokens whose last one is the lone space ``▁``::

    BOS | view (p) | prompt (T) || token of dimension 0 | ... | token of dimension A - 2

What is before ``||`` goes through the layers at once (the prefill); then each token goes through them by itself, where
it attends to the keys and values that the layers kept of all tokens before it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyslctl.errors import ConfigError
from dyslctl.types import LayerInputs, LayerState, Past, Ran, Through, TokenKind
from dyslctl_openvla_oft.action_tokens import ActionTokens
from dyslctl_openvla_oft.config import AttentionImplementation, OFTConfig
from dyslctl_openvla_oft.prismatic import LayerContext, PrismaticModel


class OpenVLAModel(PrismaticModel):
    """The model of the checkpoint; causal in either attention implementation."""

    causal = True

    def __init__(self, config: OFTConfig, attn_implementation: AttentionImplementation = "sdpa") -> None:
        super().__init__(config, attn_implementation)
        self.lm_head = nn.Linear(self.hidden_size, int(self.language_model.config.vocab_size), bias=False)
        self.action_tokens = ActionTokens.of(config)

    def embed(self, pixel_values: Tensor, input_ids: Tensor, lengths: Tensor) -> LayerInputs:
        """Lay out the sequence; shorter prompts are padded at the end.

        Args:
            pixel_values: ``[B, 6, s, s]``, see :class:`FusedVisionBackbone`.
            input_ids: ``[B, 1 + T]`` int64: BOS, prompt, the lone space; whatever follows it in a row is ignored.
            lengths: ``[B]`` int64, ids of each row that count, BOS included. On the CPU: its values decide shapes.
        """
        ids = input_ids[:, : int(lengths.max())]
        text = torch.arange(1, ids.shape[1], device=ids.device) < lengths[:, None].to(ids.device)
        kinds = torch.where(text, int(TokenKind.TEXT), int(TokenKind.PAD))
        kinds = torch.cat([self._prefix_kinds(kinds), kinds], dim=1)
        words = self.language_model.embed_tokens(ids)
        patches = self.projector(self.vision_backbone(pixel_values))
        hidden = torch.cat([words[:, :1], patches, words[:, 1:]], dim=1)
        positions = self.positions(hidden)
        return LayerInputs(hidden, positions, kinds, None if bool(text.all()) else kinds != TokenKind.PAD)

    def context(self, hidden: Tensor, positions: Tensor, mask: Tensor | None) -> LayerContext:
        """Tables for tokens ``[B, T, H]``, each of which sees itself and those before it."""
        rotary = self.rotary(hidden, positions)
        if mask is None and self.language_model.config._attn_implementation == "sdpa":
            return LayerContext(rotary, None)  # the fused kernel has a causal mask of its own
        tokens = hidden.shape[1]
        causal = torch.ones(tokens, tokens, dtype=torch.bool, device=hidden.device).tril()[None, None]
        return LayerContext(rotary, _added(causal if mask is None else causal & mask[:, None, None], hidden.dtype))

    def run_layer(self, index: int, hidden: Tensor, context: LayerContext) -> Tensor:
        """``[B, T, H]`` through decoder layer ``index``."""
        return self.attend(index, hidden, context, ())[0]

    def added(self, context: LayerContext, queries: Tensor) -> Tensor:
        """Later tokens, and padding."""
        mask, tokens = context.attention_mask, context.rotary[0].shape[1]
        if mask is None:
            order = torch.arange(tokens, device=queries.device)
            return _added(order <= queries[..., None], torch.float32)[:, None]
        rows = queries[:, None, :, None].expand(-1, 1, -1, tokens)
        return mask.expand(len(queries), -1, -1, -1).gather(2, rows).float()

    def prefill(self, index: int, state: LayerState, context: LayerContext) -> tuple[Tensor, Ran]:
        """Decoder layer ``index`` on ``state``: its output, and what later tokens need of it.

        Kept are keys and values, and ``[B, T]`` bool which of them are real if not all are.
        """
        hidden, kept = self.attend(index, state.hidden, context, ())
        return hidden, Ran(index, kept if state.mask is None else (*kept, state.mask))

    def generate(self, state: LayerState) -> tuple[Tensor, Tensor]:
        """Greedy decoding behind the last prompt token.

        Every token goes through what ``state`` went through: the plan is frozen at the prefill. A layer that was
        skipped there kept nothing, and is not run.

        Returns:
            Token ids and their values (:meth:`ActionTokens.decode`), ``[B, A]`` each.

        Raises:
            ConfigError: If ``state`` went through no layer.
        """
        past = state.past
        if not any(isinstance(step, Ran) for step in past):
            raise ConfigError("expected a state that went through the layers, found one with no keys and values")
        last = _last_text(state)
        hidden = state.hidden.gather(1, last[..., None].expand(-1, -1, state.hidden.shape[-1]))
        ids, values = self._decode(hidden)
        for offset in range(1, self.config.oft.action_dim):
            hidden, past = self._step(ids[:, -1:], state.positions.gather(1, last) + offset, past)
            token, value = self._decode(hidden)
            ids, values = torch.cat([ids, token], 1), torch.cat([values, value], 1)
        return ids, values

    def _decode(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.action_tokens.decode(self.lm_head(self.language_model.norm(hidden)))

    def _step(self, token: Tensor, position: Tensor, past: Past) -> tuple[Tensor, Past]:
        """One token ``[B, 1]`` through all of ``past``: its hidden state ``[B, 1, H]``, and the next one's past."""
        hidden: Tensor = self.language_model.embed_tokens(token)
        rotary = self.language_model.rotary_emb(hidden, position)
        extended = list[Ran | Through]()
        for step in past:
            if isinstance(step, Ran):
                hidden, step = self._through(step, hidden, rotary)
            else:
                hidden = step(hidden)
            extended.append(step)
        return hidden, tuple(extended)

    def _through(self, ran: Ran, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Ran]:
        key, value, *real = ran.kept
        seen = [F.pad(mask, (0, 1), value=True) for mask in real]
        context = LayerContext(rotary, _added(seen[0][:, None, None], hidden.dtype) if seen else None)
        hidden, kept = self.attend(ran.layer, hidden, context, (key, value))
        return hidden, Ran(ran.layer, (*kept, *seen))


def _added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores: nothing where a key is seen."""
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def _last_text(state: LayerState) -> Tensor:
    """``[B, 1]`` int64, where the last prompt token stands."""
    text = state.kinds == TokenKind.TEXT
    if state.mask is not None:
        text = text & state.mask
    order = torch.arange(1, text.shape[1] + 1, device=text.device)
    return (text * order).argmax(dim=1, keepdim=True)
