"""Samples to learn from, grouped so that no batch needs padding: encoded in main memory, or encoded when drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from dyslctl.errors import ConfigError
from dyslctl.types import LayerInputs, LayerState, Observation, joined_history, map_tree

Encode = Callable[[Sequence[Observation]], LayerInputs]
"""A frozen backbone's ``encode``, in the precision of the training."""


@dataclass(frozen=True)
class Part:
    """One of ``count`` equal parts of a step's samples: a micro-batch, or what one of several processes computes."""

    index: int = 0
    count: int = 1

    def of(self, rows: Tensor) -> Tensor:
        """This part of ``rows`` ``[B]``; ``count`` divides ``B``."""
        return rows.chunk(self.count)[self.index]


WHOLE = Part()


@dataclass(frozen=True)
class Batch:
    """Encoded samples that share one forward pass.

    Attributes:
        inputs: What enters the first layer, ``B`` rows.
        target: ``[B, N, A]`` float32 normalised, the chunk to learn.
        episodes: ``[B]`` int64, the episode each sample is from.
        memory: ``[B, P]`` float32, the chunk predicted before, as ``dysl/plan_memory.py`` lays it out.
    """

    inputs: LayerInputs
    target: Tensor
    episodes: Tensor
    memory: Tensor

    def __len__(self) -> int:
        return self.inputs.batch_size

    @property
    def tokens(self) -> int:
        """``T``."""
        return self.inputs.hidden.shape[1]

    @property
    def nbytes(self) -> int:
        """Of what enters the layers."""
        sizes = list[int]()
        parts = [self.inputs.hidden, self.inputs.conditioning, self.inputs.history]
        map_tree([parts], lambda tensors: sizes.append(tensors[0].nbytes))
        return sum(sizes)

    def rows(self, index: Tensor) -> Batch:
        """The samples ``index`` ``[n]`` int64."""
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device) -> Batch:
        """The same samples on ``device``."""
        return self._map(lambda tensor: tensor.to(device))

    def lengths(self) -> dict[int, Tensor]:
        """Which samples ``[n]`` int64 have how many tokens, padding not counted; ascending."""
        if self.inputs.mask is None:
            return {self.tokens: torch.arange(len(self))}
        lengths = self.inputs.mask.sum(1)
        return {n: (lengths == n).nonzero()[:, 0] for n in sorted(set(lengths.tolist()))}

    def without_padding(self) -> list[Batch]:
        """The same samples, their padding taken out: one batch for each token count, none with a mask."""
        return [self.rows(index).strip(length) for length, index in self.lengths().items()]

    def strip(self, length: int) -> Batch:
        """The same samples without their padding, if all of them have ``length`` tokens."""
        state = LayerState.of(self.inputs)
        if state.mask is not None:
            # A stable sort brings the real tokens to the front without changing their order.
            state.select(state.mask.int().argsort(dim=1, descending=True, stable=True)[:, :length])
        tokens = {"hidden": state.hidden, "positions": state.positions, "kinds": state.kinds}
        return replace(self, inputs=replace(self.inputs, **tokens, mask=None))

    def fingerprint(self) -> bytes:
        """Shapes and one hidden value a sample."""
        hidden = self.inputs.hidden
        shown = hidden[:, hidden.shape[1] // 2, 0].float().numpy().tobytes()
        return f"{hidden.dtype} {tuple(hidden.shape)}".encode() + shown

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """All samples of ``parts``, which have equal token counts and no masks."""
        inputs = [part.inputs for part in parts]
        joined = LayerInputs(
            hidden=torch.cat([each.hidden for each in inputs]),
            positions=torch.cat([each.positions for each in inputs]),
            kinds=torch.cat([each.kinds for each in inputs]),
            conditioning=map_tree([each.conditioning for each in inputs], torch.cat),
            history=joined_history([(each.batch_size, each.history) for each in inputs]),
        )
        return cls(joined, *_columns(parts))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        old = self.inputs
        mask = None if old.mask is None else function(old.mask)
        conditioning = map_tree([old.conditioning], lambda tensors: function(tensors[0]))
        history = None if old.history is None else function(old.history)
        tokens = (function(old.hidden), function(old.positions), function(old.kinds), mask)
        inputs = LayerInputs(*tokens, conditioning, history)
        return Batch(inputs, function(self.target), function(self.episodes), function(self.memory))


@dataclass(frozen=True)
class Unencoded:
    """Samples with one token count that are encoded when they are drawn: what is in memory is their labels.

    Attributes:
        observations: What to encode; their images may wait in a file.
        encode: Is given them.
        tokens: ``T`` of each, padding not counted.
        target, episodes, memory: As those of a :class:`Batch`.
        history: As that of its inputs.
    """

    observations: Sequence[Observation] = field(repr=False)
    encode: Encode = field(repr=False)
    tokens: int
    target: Tensor
    episodes: Tensor
    memory: Tensor
    history: Tensor | None = None

    def __len__(self) -> int:
        return len(self.observations)

    def rows(self, index: Tensor) -> Batch:
        """The samples ``index`` ``[n]`` int64, encoded, where the backbone is."""
        inputs = self.encode([self.observations[row] for row in index.tolist()])
        history = None if self.history is None else self.history[index]
        inputs = replace(inputs, history=history)
        batch = Batch(inputs, self.target[index], self.episodes[index], self.memory[index])
        return batch.to(inputs.hidden.device).strip(self.tokens)

    def fingerprint(self) -> bytes:
        """What goes into a sample beside its images, by which a teacher's labels tell them apart."""
        seen = [f"{self.tokens}".encode()]
        for observation in self.observations:
            seen.append(observation.instruction.encode())
            seen.append(b"" if observation.proprio is None else observation.proprio.tobytes())
        return b"\0".join(seen)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """All samples of ``parts``, which have equal token counts and one backbone."""
        observations = list(chain.from_iterable(part.observations for part in parts))
        history = joined_history([(len(part), part.history) for part in parts])
        target, episodes, memory = _columns(parts)
        return cls(observations, parts[0].encode, parts[0].tokens, target, episodes, memory, history)


Samples = Batch | Unencoded
"""With one token count."""
_S = TypeVar("_S", Batch, Unencoded)


@dataclass(frozen=True)
class Dataset:
    """Samples to learn from: one group for each token count, without padding; what is encoded is by itself."""

    groups: tuple[Samples, ...]

    @classmethod
    def of(cls, parts: Sequence[Samples]) -> Dataset:
        """Group ``parts``, none of which has a mask, by their token count."""
        encoded = [part for part in parts if isinstance(part, Batch)]
        others = [part for part in parts if isinstance(part, Unencoded)]
        return cls((*map(Batch.join, _by_tokens(encoded)), *map(Unencoded.join, _by_tokens(others))))

    def __len__(self) -> int:
        return sum(len(group) for group in self.groups)

    def batch(self, seed: int, step: int, size: int, part: Part = WHOLE, window: int = 1) -> Batch:
        """``size`` random windows of one group, drawn for ``step``; of them the ones of ``part``, window by window.

        A window is ``window`` samples of one instruction in a row, as a policy comes by them; data that was not
        collected whole and in its order has none but single ones. Depends on the arguments alone, not on what was
        drawn before: an interrupted run resumes exactly.

        Raises:
            ConfigError: If no instruction is so long.
        """
        first = [_window_starts(group.memory, window) for group in self.groups]
        if not sum(map(len, first)):
            raise ConfigError(
                f"distill.window: expected at most as many inferences as an instruction has, found {window}",
                hint="lower distill.window",
            )
        group, drawn = draw_rows(list(map(len, first)), seed, step, size)
        rows = first[group][part.of(drawn)][:, None] + torch.arange(window)
        return self.groups[group].rows(rows.flatten())

    def batches(self, size: int) -> Iterator[Batch]:
        """Every sample once, at most ``size`` at a time."""
        for group in self.groups:
            for first in range(0, len(group), size):
                yield group.rows(torch.arange(first, min(first + size, len(group))))

    def digest(self) -> str:
        """Hash of the samples and their labels: does a training go on with the data it began with?"""
        digest = hashlib.sha256()
        for group in self.groups:
            digest.update(group.fingerprint())
            for column in (group.target, group.episodes, group.memory):
                digest.update(column.numpy().tobytes())
        return digest.hexdigest()

    def merge(self, other: Dataset) -> Dataset:
        """The samples of both."""
        return Dataset.of([*self.groups, *other.groups])


def draw_rows(sizes: Sequence[int], seed: int, step: int, size: int) -> tuple[int, Tensor]:
    """One of the groups of ``sizes`` samples, each sample as likely as any other, and ``size`` rows of it, int64."""
    rng, counts = np.random.default_rng((seed, step)), np.array(sizes)
    chosen = int(rng.choice(len(counts), p=counts / counts.sum()))
    return chosen, torch.from_numpy(rng.choice(counts[chosen], size, replace=counts[chosen] < size))


def _window_starts(memory: Tensor, window: int) -> Tensor:
    """``[n]`` int64: the rows of ``memory`` ``[B, P]`` after which ``window - 1`` more of the instruction follow."""
    fresh = memory[:, -1] == 0  # the first inference of an instruction remembers no chunk
    instruction = fresh.cumsum(0)
    last = len(memory) - window + 1
    return (instruction[:last] == instruction[window - 1 :]).nonzero()[:, 0] if last > 0 else torch.arange(0)


def _by_tokens(parts: Sequence[_S]) -> list[list[_S]]:
    """Those of equal token counts together, ascending."""
    return [[part for part in parts if part.tokens == n] for n in sorted({part.tokens for part in parts})]


def _columns(parts: Sequence[Samples]) -> list[Tensor]:
    """Target, episodes and memory of all ``parts``."""
    columns = [(part.target, part.episodes, part.memory) for part in parts]
    return [torch.cat(column) for column in zip(*columns, strict=True)]
