"""Keys and values behind or beside others, as ``transformers`` takes them."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

_PARAMETERS = inspect.signature(LlamaDecoderLayer.forward).parameters
CACHE = "cache" if "cache" in _PARAMETERS else "past_key_values"
"""What a decoder layer calls its keys and values: ``transformers`` renamed it in 5.24."""


class Extended:
    """One layer's keys and values ``[B, heads, T, head_dim]``, as the ``Cache`` that ``transformers`` hands to it."""

    def __init__(self, before: tuple[Tensor, ...]) -> None:
        self.kept = before

    def update(self, key: Tensor, value: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Those of the tokens before, then the new ones. New tensors: others may hold the old ones."""
        new = (key, value)
        self.kept = new if not self.kept else tuple(torch.cat(pair, 2) for pair in zip(self.kept, new, strict=True))
        return self.kept[0], self.kept[1]
