"""Which layers are informative (section 3.1): cosine similarity of the residual stream before and after each layer.

A layer whose output points where its input pointed is incremental and can be skipped; one that turns the stream is
informative and stays static. Sums are streamed: nothing but ``[L+1, L+1]`` matrices outlives a batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import normalize

from dyslctl.backbone import Backbone
from dyslctl.dysl.states import residual_states
from dyslctl.errors import ConfigError
from dyslctl.types import LayerInputs, TokenKind

TOKEN_CLASSES = ("all", "vision", "text", "action")
EPS = 1e-12
"""What a length is at least, where something is divided by it."""


@dataclass(frozen=True)
class SimilarityResult:
    """What profiling found, averaged over tokens, then over samples.

    Attributes:
        cosines: ``[L+1, L+1]``, ``E cos(h_a, h_b)`` over all tokens.
        by_class: Token class -> ``[L]``, ``E cos(h_i, h_{i+1})``; classes without tokens are absent, and where those of
            a class are all zero it is 0.
        standard_error: ``[L]``, of ``similarity``, bootstrapped over episodes.
        centred: ``[L]``, the same cosine after each sample's mean token is subtracted, which removes the few massive
            channels that pull every plain cosine towards 1.
        relative_update: ``[L]``, ``E |h_{i+1} - h_i| / |h_i|``.
        samples: Observations seen.
        episodes: Episodes they came from.
    """

    cosines: np.ndarray
    by_class: Mapping[str, np.ndarray]
    standard_error: np.ndarray
    centred: np.ndarray
    relative_update: np.ndarray
    samples: int
    episodes: int

    @property
    def similarity(self) -> np.ndarray:
        """``[L]``, ``E cos(h_i, h_{i+1})``: input against output of each layer (Fig. 3c, d)."""
        return np.diagonal(self.cosines, offset=1)

    @property
    def importance(self) -> np.ndarray:
        """``[L]``, ``I_i = 1 - similarity``."""
        return 1 - self.similarity

    @property
    def heat_map(self) -> np.ndarray:
        """``[L, L]``, ``M[a, b] = E cos(h_{a+1}, h_{b+1})``: the layers' outputs against each other (Fig. 3a, b)."""
        return self.cosines[1:, 1:]


@dataclass
class _Sums:
    """Sums over the samples of one episode."""

    cosines: dict[str, np.ndarray] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    centred: np.ndarray | float = 0.0
    update: np.ndarray | float = 0.0

    def add(self, name: str, cosines: np.ndarray) -> None:
        self.cosines[name] = self.cosines.get(name, 0) + cosines
        self.counts[name] = self.counts.get(name, 0) + 1


class _Stream:
    """The residual stream ``h_0 .. h_L`` of one sample, each ``[T, H]`` fp32, its valid tokens.

    State by state, which stays in the cache: a profile costs little beside its pass. Tokens that enter as zeros, as the
    placeholders of OpenVLA-OFT's actions do, have no direction yet: means are over the tokens that have one.

    Attributes:
        units: ``[L+1, T, H]``, the states scaled to length 1.
        directed: ``[L+1, T]`` float32, 1 where there is a direction.
        finite: Whether every value is.
        centred: ``[L]``, mean cosine of a state and the next, each without its mean token.
        update: ``[L]``, mean of ``|h_{i+1} - h_i| / |h_i|``.
    """

    def __init__(self, states: Sequence[Tensor]) -> None:
        lengths = [vector_norm(state, dim=-1) for state in states]
        self.finite = bool(torch.stack(lengths).isfinite().all())
        self.directed = (torch.stack(lengths) > EPS).float()
        lengths = [length.clamp_min(EPS) for length in lengths]
        self.units = torch.stack([state / length[:, None] for state, length in zip(states, lengths, strict=True)])
        turned = [normalize(state - state.mean(0), dim=-1, eps=EPS) for state in states]
        self.centred = torch.stack([(one * following).sum(-1).mean() for one, following in pairwise(turned)])
        moved = [vector_norm(following - one, dim=-1) for one, following in pairwise(states)]
        steps = torch.stack([step / length for step, length in zip(moved, lengths, strict=False)])
        counted = self.directed[:-1]
        self.update = (steps * counted).sum(-1) / counted.sum(-1).clamp_min(1)

    def cosines(self, members: Tensor) -> Tensor:
        """``[L+1, L+1]``, of every two states, mean over the tokens that ``members`` ``[T]`` names; 0 of none."""
        whole = bool(members.all())
        units, directed = (self.units, self.directed) if whole else (self.units[:, members], self.directed[:, members])
        flat = units.flatten(1)
        return flat @ flat.T / (directed @ directed.T).clamp_min(1)


class SimilarityAccumulator:
    """Feed it observations batch by batch, then ask for the result."""

    def __init__(self) -> None:
        self._episodes: dict[int, _Sums] = defaultdict(_Sums)

    def add(self, backbone: Backbone, inputs: LayerInputs, episodes: Sequence[int]) -> None:
        """One full pass over a batch.

        Args:
            backbone: Whose layers are measured.
            inputs: ``B`` encoded observations.
            episodes: ``B`` episode ids, the resampling unit of the standard error.

        Raises:
            ConfigError: If a hidden state is not finite.
        """
        states, _ = residual_states(backbone, inputs)
        for row, episode in enumerate(episodes):
            # An index by a mask copies every state, and most samples have no padding.
            seen = row if inputs.mask is None or bool(inputs.mask[row].all()) else (row, inputs.mask[row])
            stream = _Stream([state[seen].float() for state in states])
            if not stream.finite:
                raise ConfigError(
                    f"the residual stream of episode {episode} is not finite: the weights are damaged, or overflow",
                    hint="copy the checkpoint again; of float16: --set model.dtype=float32",
                )
            self._add_sample(self._episodes[episode], stream, inputs.kinds[seen])

    def _add_sample(self, sums: _Sums, stream: _Stream, kinds: Tensor) -> None:
        """``kinds`` ``[T]``."""
        for name, members in _token_classes(kinds).items():
            if bool(members.any()):
                sums.add(name, stream.cosines(members).double().cpu().numpy())
        sums.centred += stream.centred.double().cpu().numpy()
        sums.update += stream.update.double().cpu().numpy()

    def result(self, *, resamples: int = 1000, seed: int = 0) -> SimilarityResult:
        """Everything seen so far.

        Args:
            resamples: Bootstrap resamples of the episodes.
            seed: Of the bootstrap.

        Raises:
            ConfigError: If nothing was added.
        """
        if not self._episodes:
            raise ConfigError("no observation to profile", hint="dyslctl profile --samples 256")
        sums = list(self._episodes.values())
        samples = sum(s.counts["all"] for s in sums)
        means = {name: _mean(sums, name) for name in TOKEN_CLASSES if any(name in s.counts for s in sums)}
        return SimilarityResult(
            cosines=means["all"],
            by_class={name: np.diagonal(mean, offset=1) for name, mean in means.items()},
            standard_error=_bootstrap_error(sums, resamples, seed),
            centred=np.asarray(sum(s.centred for s in sums) / samples),
            relative_update=np.asarray(sum(s.update for s in sums) / samples),
            samples=samples,
            episodes=len(sums),
        )


def _token_classes(kinds: Tensor) -> dict[str, Tensor]:
    return {
        "all": torch.ones_like(kinds, dtype=torch.bool),
        "vision": kinds >= TokenKind.VISION,
        "text": kinds == TokenKind.TEXT,
        "action": kinds == TokenKind.ACTION,
    }


def _mean(sums: Sequence[_Sums], name: str) -> np.ndarray:
    present = [s for s in sums if name in s.counts]
    return np.asarray(sum(s.cosines[name] for s in present) / sum(s.counts[name] for s in present))


def _bootstrap_error(sums: Sequence[_Sums], resamples: int, seed: int) -> np.ndarray:
    """Standard deviation of ``similarity`` over resampled sets of episodes: ``[L]``."""
    totals = np.stack([np.diagonal(s.cosines["all"], offset=1) for s in sums])
    counts = np.array([s.counts["all"] for s in sums])
    draws = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=resamples)
    return np.asarray((draws @ totals / (draws @ counts)[:, None]).std(axis=0))
