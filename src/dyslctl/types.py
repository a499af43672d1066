"""Run-time values that every room shares.

Shape letters, fixed once: ``B`` batch, ``T`` tokens, ``H`` hidden size, ``L`` layers, ``N`` actions in a chunk,
``A`` action dimensions, ``K`` kept tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyslctl.errors import PluginError


@dataclass(frozen=True)
class Observation:
    """What the robot knows before one action.

    Attributes:
        images: View name -> ``[height, width, 3]`` uint8, upright, in the model's order (``BackboneSpec.views``); what
            they are called is for people.
        instruction: The task in words.
        proprio: ``[P]`` float32 in the suite's units, or ``None`` if the robot reports none.
    """

    images: Mapping[str, np.ndarray]
    instruction: str
    proprio: np.ndarray | None = None

    def painted(self) -> Observation:
        """With all images at hand: a simulator may paint them when first looked at, on no policy's clock."""
        return replace(self, images=dict(self.images))


@dataclass(frozen=True)
class ActionChunk:
    """``N`` consecutive actions predicted from one observation.

    Attributes:
        actions: ``[N, A]`` float32, what the robot executes (the suite's units, gripper already decided).
        normalized: ``[N, A]`` float32, the same actions in the model's normalised space; the gripper column
            holds the executed decision (+1 or -1). Continuity (Eq. 1) is measured on these.
    """

    actions: np.ndarray
    normalized: np.ndarray

    def __len__(self) -> int:
        return len(self.actions)

    def head(self, length: int) -> ActionChunk:
        """The first ``length`` actions, the ones that will be executed."""
        return ActionChunk(self.actions[:length], self.normalized[:length])


class TokenKind(IntEnum):
    """What a token stands for. View ``v`` of the cameras is ``VISION + v``."""

    PAD = 0
    BOS = 1
    PROPRIO = 2
    TEXT = 3
    ACTION = 4
    STOP = 5
    VISION = 16


@dataclass(frozen=True)
class LayerInputs:
    """What enters the first decoder layer. Read-only: a second pass starts from the same object.

    Attributes:
        hidden: ``[B, T, H]`` embeddings, in the model's dtype.
        positions: ``[B, T]`` int64, the original position of each token.
        kinds: ``[B, T]`` int64, :class:`TokenKind` of each token.
        mask: ``[B, T]`` bool, true for real tokens; ``None`` if no token is padding.
        conditioning: Anything else the layers read (RoboFlamingo: visual latents). Opaque to the core.
        history: ``[B, Q]`` float32, what a head with memory remembers of each sample (``Backbone.history``), in place
            of its own memory; ``None``: its own.
    """

    hidden: Tensor
    positions: Tensor
    kinds: Tensor
    mask: Tensor | None = None
    conditioning: Any = None
    history: Tensor | None = None

    @property
    def batch_size(self) -> int:
        """``B``."""
        return self.hidden.shape[0]

    def samples(self) -> Iterator[LayerState]:
        """Each as if it had been encoded alone: without padding, so that only token counts must agree."""
        for row in range(self.batch_size):
            state = LayerState.of(self._rows(slice(row, row + 1)))
            if state.mask is not None:
                state.select(state.mask.nonzero()[None, :, 1])
                state.mask = None
            yield state

    def _rows(self, rows: slice) -> LayerInputs:
        mask = None if self.mask is None else self.mask[rows]
        conditioning = map_tree([self.conditioning], lambda tensors: tensors[0][rows])
        history = None if self.history is None else self.history[rows]
        return LayerInputs(self.hidden[rows], self.positions[rows], self.kinds[rows], mask, conditioning, history)


def map_tree(trees: Sequence[Any], function: Callable[[list[Tensor]], Any]) -> Any:
    """Apply ``function`` to the corresponding tensors of equally built ``trees``.

    Conditioning belongs to the plugin; all the core asks is that it is ``None``, or tensors with ``B`` rows, alone or
    in mappings and sequences.
    """
    first = trees[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return function(list(trees))
    if isinstance(first, Mapping):
        return {key: map_tree([tree[key] for tree in trees], function) for key in first}
    if isinstance(first, tuple | list):
        return tuple(map_tree([tree[i] for tree in trees], function) for i in range(len(first)))
    raise PluginError(
        f"LayerInputs.conditioning: expected tensors, mappings or sequences, found {type(first).__name__}"
    )


def joined_history(parts: Sequence[tuple[int, Tensor | None]]) -> Tensor | None:
    """``[B, Q]`` of several batches, each told by its size; where one has none, nothing is remembered: zeros."""
    known = [history for _, history in parts if history is not None]
    if not known:
        return None
    return torch.cat([known[0].new_zeros(size, known[0].shape[1]) if h is None else h for size, h in parts])


@dataclass(frozen=True)
class Ran:
    """A decoder layer that ran, and what a plugin keeps of it for the tokens that its head generates.

    Attributes:
        layer: Which one.
        kept: The plugin's own, each ``[B, ...]``: keys and values.
    """

    layer: int
    kept: tuple[Tensor, ...]

    def rows(self) -> list[Ran]:
        """Each sample's share."""
        return [Ran(self.layer, row) for row in zip(*(t.chunk(len(t)) for t in self.kept), strict=True)]

    @classmethod
    def join(cls, parts: Sequence[Ran]) -> Ran:
        """The same layer, of several samples."""
        return cls(parts[0].layer, tuple(torch.cat(column) for column in zip(*(p.kept for p in parts), strict=True)))


@dataclass(frozen=True)
class KeysValues:
    """Keys and values of one layer's tokens, keys with the rotary embedding of their original positions.

    Attributes:
        positions: ``[B, N]`` int64, original.
        keys: ``[B, heads, N, d]``.
        values: Likewise.
    """

    positions: Tensor
    keys: Tensor
    values: Tensor

    def where(self, wanted: Tensor) -> KeysValues:
        """Those of the tokens ``wanted``, ``[N]`` bool."""
        return KeysValues(self.positions[:, wanted], self.keys[:, :, wanted], self.values[:, :, wanted])

    def and_(self, others: KeysValues) -> KeysValues:
        """These, then ``others``."""
        pairs = ((self.keys, others.keys), (self.values, others.values))
        return KeysValues(torch.cat([self.positions, others.positions], 1), *(torch.cat(pair, 2) for pair in pairs))


Through = Callable[[Tensor], Tensor]
"""What is no layer, such as an adapter: ``[B, T, H]`` to ``[B, T, H]`` for any ``T``, token by token."""
Past = tuple[Ran | Through, ...]
"""What a state went through, in order. Extended, never changed, so that forks may share it."""


@dataclass
class LayerState:
    """The residual stream between two decoder layers, with what belongs to each of its tokens.

    ``context`` is the plugin's own: what it derives from positions and mask (rotary tables, attention mask) and
    wants to keep from layer to layer. It is dropped whenever tokens are gathered.

    ``past`` is the plan that a generating head takes its own tokens through. ``run_layer`` adds a :class:`Ran` if the
    plugin has such a head, :meth:`apply` what is no layer. Gathering tokens leaves it as it is: they were seen.
    """

    hidden: Tensor
    positions: Tensor
    kinds: Tensor
    mask: Tensor | None = None
    conditioning: Any = None
    context: Any = field(default=None, repr=False)
    past: Past = field(default=(), repr=False)
    history: Tensor | None = field(default=None, repr=False)

    @classmethod
    def of(cls, inputs: LayerInputs) -> LayerState:
        """The state before layer 0."""
        tokens = (inputs.hidden, inputs.positions, inputs.kinds, inputs.mask)
        return cls(*tokens, inputs.conditioning, history=inputs.history)

    @property
    def padding(self) -> int:
        """Tokens of one sample that stand for nothing; of several samples, of the one that has most."""
        return 0 if self.mask is None else int((~self.mask).sum(1).max())

    def fork(self) -> LayerState:
        """A second state at the same point. Cheap: layers never write into the tensors they are given."""
        return replace(self)

    def apply(self, through: Through) -> None:
        """Hand every token ``through`` something that is no layer."""
        self.hidden = through(self.hidden)
        self.past = (*self.past, through)

    def select(self, keep: Tensor) -> None:
        """Go on with a subset of the tokens, each with its original position.

        Args:
            keep: ``[B, K]`` int64, indices into the current ``T`` tokens, ascending.
        """
        self.hidden = torch.gather(self.hidden, 1, keep[..., None].expand(-1, -1, self.hidden.shape[-1]))
        self.positions = torch.gather(self.positions, 1, keep)
        self.kinds = torch.gather(self.kinds, 1, keep)
        self.mask = None if self.mask is None else torch.gather(self.mask, 1, keep)
        self.context = None
