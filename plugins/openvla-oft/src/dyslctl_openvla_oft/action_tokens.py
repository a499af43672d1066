"""Actions as tokens: each dimension is one of 255 intervals between -1 and 1, named by one of the last 256 tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dyslctl_openvla_oft.config import OFTConfig


@dataclass(frozen=True)
class ActionTokens:
    """Token ids and the values they stand for.

    Attributes:
        vocabulary: Tokens that the tokenizer knows; the last ones stand for actions.
        edges: Between -1 and 1, evenly spaced.
    """

    vocabulary: int
    edges: int

    @classmethod
    def of(cls, config: OFTConfig) -> ActionTokens:
        """Those of a checkpoint: behind them the embedding table is filled up with rows that are no token."""
        return cls(int(config.llama().vocab_size) - config.pad_to_multiple_of, config.n_action_bins)

    @property
    def slice(self) -> slice:
        """The ids that stand for actions."""
        return slice(self.vocabulary - self.edges, self.vocabulary)

    def values(self, ids: Tensor) -> Tensor:
        """``c[clip(V - id - 1, 0, 254)]``, ``c`` the interval's centre: the released decoding. Float32, as ``ids``.

        Both of the first two action tokens name the last interval. Any other token is taken for the nearest end.
        """
        edges = torch.linspace(-1, 1, self.edges, dtype=torch.float64, device=ids.device)
        centers = (edges[:-1] + edges[1:]) / 2
        return centers[(self.vocabulary - ids - 1).clamp(0, len(centers) - 1)].float()

    def decode(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """What is most likely, among all tokens.

        Args:
            logits: ``[..., all tokens]``.

        Returns:
            The ids ``[...]`` and their values ``[...]``, float32. To have a gradient, the values take that of the mean
            over the action tokens, ``sum_i softmax(logits)_i c_i`` (straight through, Bengio et al. 2013).
        """
        ids = logits.argmax(-1)
        values = self.values(ids)
        if logits.requires_grad:
            actions = torch.arange(self.slice.start, self.slice.stop, device=ids.device)
            mean = logits[..., self.slice].float().softmax(-1) @ self.values(actions)
            values = values + (mean - mean.detach())
        return ids, values
