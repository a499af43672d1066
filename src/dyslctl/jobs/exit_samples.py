"""Samples as the exits and their planner see them, kept in memory or computed anew for each batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from dyslctl.backbone import Backbone
from dyslctl.dysl.exit_training import ExitViews, exit_actions, exit_views
from dyslctl.dysl.exits import DAMAGE_FLOOR, ExitModules, relative_damage
from dyslctl.dysl.query_layout import QueryLayout
from dyslctl.jobs.dataset import WHOLE, Batch, Dataset, Part, Samples, draw_rows
from dyslctl.jobs.progress import NO_PROGRESS, Progress
from dyslctl.jobs.training import Precision, autocast, uses_bf16
from dyslctl.joint.subsets import Subset, draw_subsets, subset_views

SUBSETS = 2
"""Sets the draw of the token subsets apart from other draws of the same seed."""
Subsets = Sequence[Subset] | None
"""What each sample is seen on; ``None``: on every token."""


@dataclass(frozen=True)
class _Piece:
    """The samples of one data set with one token count.

    Attributes:
        target: ``[n, N, A]``, on the CPU.
        source: What the exits see, on the CPU, if it is kept; the samples are then dropped. Else the samples.
        subsets: On which tokens they are seen.
    """

    target: Tensor
    source: ExitViews | Samples
    subsets: Subsets

    def __len__(self) -> int:
        return len(self.target)


class ExitSamples:
    """Data sets as the exits see them: computed once and kept if they fit, else one frozen pass for each batch.

    Both ways the same batches, up to the order of sums in passes over more or fewer rows.

    With token subsets every sample is there twice: on all its tokens, and on some that SpecPrune-VLA would retain. Both
    have one target, the full model's action on all tokens: whatever an exit has seen, that action is what it is to give
    in the place of the rest of the model. (A target under the same subset is for hidden states, which must be those of
    the same tokens; as an action it would teach the exits what pruning does to it.)
    """

    def __init__(
        self,
        backbone: Backbone,
        data: Dataset,
        exits: Sequence[int],
        max_bytes: int,
        *,
        remembers: bool = True,
        subset_seed: int | None = None,
        precision: Precision = "fp32",
        progress: Progress = NO_PROGRESS,
    ) -> None:
        """Make the passes, or do not.

        Args:
            backbone: The frozen model.
            data: Its samples.
            exits: Ascending.
            max_bytes: The most memory that may be kept, on the CPU.
            remembers: Whether the exits are told the last chunk.
            subset_seed: Of the token subsets; ``None``: every sample is there once, on all its tokens.
            precision: Of the passes, as in training; hidden states are rounded to it.
            progress: Told about each sample.
        """
        self._backbone, self._exits, self._precision = backbone, exits, precision
        self._left, self._remembers, self._progress = max_bytes, remembers, progress
        self._subset_seed = subset_seed
        self._groups: dict[int, list[_Piece]] = {}
        self._digests: list[str] = []
        self._take(data)

    def __len__(self) -> int:
        return sum(len(piece) for piece in self._pieces())

    def plus(self, data: Dataset) -> ExitSamples:
        """These samples and those of ``data``, which are kept if they fit beside them; nothing is copied."""
        more = copy(self)
        more._groups = {length: list(pieces) for length, pieces in self._groups.items()}
        more._digests = list(self._digests)
        more._take(data)
        return more

    @property
    def kept(self) -> bool:
        """Whether they all fitted."""
        return all(isinstance(piece.source, ExitViews) for piece in self._pieces())

    def digest(self) -> str:
        """Of the data sets."""
        return hashlib.sha256("".join(self._digests).encode()).hexdigest()

    def batch(self, seed: int, step: int, size: int, part: Part = WHOLE) -> tuple[ExitViews, Tensor]:
        """Views and targets ``[B, N, A]`` of the samples that ``Dataset.batch`` draws, or of a ``part`` of them."""
        groups = list(self._groups.values())
        chosen, rows = draw_rows([sum(map(len, pieces)) for pieces in groups], seed, step, size)
        return self._rows(groups[chosen], part.of(rows))

    def batches(self, size: int = 128) -> Iterator[tuple[ExitViews, Tensor]]:
        """Every sample once, at most ``size`` at a time."""
        for pieces in self._groups.values():
            for rows in torch.split(torch.arange(sum(map(len, pieces))), size):
                yield self._rows(pieces, rows)

    def _pieces(self) -> Iterator[_Piece]:
        return chain.from_iterable(self._groups.values())

    def _take(self, data: Dataset) -> None:
        """Add the groups of ``data``: all of them kept, or none."""
        seen = list(self._seen(data))
        count = sum(len(group) for group, _ in seen)
        needed = self._compute(data.groups[0].rows(torch.arange(1)), None).hidden.nbytes * count
        fits = needed <= self._left
        if fits:
            self._left -= needed
            self._progress.start(count, "states before the exits")
        for group, subsets in seen:
            piece = _Piece(group.target, self._views_of(group, subsets) if fits else group, subsets)
            self._groups.setdefault(group.tokens, []).append(piece)
        if fits:
            self._progress.close()
        self._groups = dict(sorted(self._groups.items()))
        self._digests.append(data.digest())

    def _seen(self, data: Dataset) -> Iterator[tuple[Samples, Subsets]]:
        """Its groups on every token, and on subsets; those depend on the place of ``data`` among the data sets."""
        yield from ((group, None) for group in data.groups)
        if self._subset_seed is not None:
            rng = np.random.default_rng((self._subset_seed, len(self._digests), SUBSETS))
            yield from ((group, draw_subsets(rng, len(group))) for group in data.groups)

    def _rows(self, pieces: Sequence[_Piece], rows: Tensor) -> tuple[ExitViews, Tensor]:
        """The samples ``rows`` of ``pieces`` that lie one behind the other."""
        device, dtype, first = self._backbone.device, self._backbone.dtype, 0
        found, targets, places = list[ExitViews](), list[Tensor](), list[Tensor]()
        for piece in pieces:
            here = ((rows >= first) & (rows < first + len(piece))).nonzero()[:, 0]
            if len(here):
                own = rows[here] - first
                found.append(self._views(piece, own).to(device, dtype))
                targets.append(piece.target[own])
                places.append(here)
            first += len(piece)
        order = torch.cat(places).argsort()
        return ExitViews.join(found).rows(order.to(device)), torch.cat(targets)[order].to(device)

    def _views(self, piece: _Piece, rows: Tensor) -> ExitViews:
        picked = piece.source.rows(rows)
        return self._compute(picked, _of(piece.subsets, rows)) if isinstance(picked, Batch) else picked

    def _compute(self, samples: Batch, subsets: Subsets) -> ExitViews:
        device, precision = self._backbone.device, self._precision
        samples = samples.to(device)
        seen = self._backbone, samples.inputs, samples.memory * self._remembers, self._exits
        with autocast(precision, device):
            views = exit_views(*seen) if subsets is None else subset_views(*seen, subsets)
        return views.to(device, torch.bfloat16 if uses_bf16(precision, device) else views.hidden.dtype)

    def _views_of(self, group: Samples, subsets: Subsets, size: int = 128) -> ExitViews:
        parts = []
        for rows in torch.split(torch.arange(len(group)), size):
            views = self._compute(group.rows(rows), _of(subsets, rows))
            parts.append(views.to(torch.device("cpu"), views.hidden.dtype))
            self._progress.advance(len(rows))
        return ExitViews.join(parts)


def _of(subsets: Subsets, rows: Tensor) -> Subsets:
    return None if subsets is None else [subsets[row] for row in rows.tolist()]


@torch.no_grad()
def planner_samples(
    backbone: Backbone, modules: ExitModules, samples: ExitSamples, executed: int
) -> tuple[Tensor, Tensor]:
    """What the planner sees and what it should say: features ``[n, 3 H + P]`` and log damages ``[n, E]``.

    Float32 on the CPU: at the published size a sample's features are 49 kB.
    """
    features, damages = [], []
    for views, full in samples.batches():
        predicted = exit_actions(backbone, modules, views).float()
        found = [relative_damage(each, full, executed, backbone.spec.gripper_dim) for each in predicted]
        first = views.at(0)
        layout = QueryLayout.of(first, modules.sizes.chunk_length)
        features.append(layout.features(first.hidden, views.memory).float().cpu())
        damages.append((torch.stack(found, 1) + DAMAGE_FLOOR).log().cpu())
    return torch.cat(features), torch.cat(damages)
