"""MoLe-VLA (Zhang et al., arXiv 2503.20384) on a frozen backbone: before layer 0 a router picks the layers to run.

    soft = softmax(router(h_0));  hard = the k layers with the largest;  h_{i+1} = g_i L_i(h_i) + (1 - g_i) h_i

with ``g = hard`` whose gradient is that of ``soft`` (straight-through). The loss is the task's, a balance term against
routers that always pick the same layers, and the distance of the last hidden state to the full model's.

Where this differs from the public code:

* Layers that are not picked are not executed. The public forward runs every layer and masks its output.
* Backbone and head stay frozen, so the teacher is the full model itself and not a moving average of the student.
* Embeddings are normalised for the router alone. The public code hands the normalised ones to the layers too.
* The distance is a mean over the query tokens; its weights there come from a token that only that model has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyslctl.backbone import Backbone
from dyslctl.dysl.distillation import Recomputed, predict_windows
from dyslctl.dysl.skip_modules import QUERY_KINDS
from dyslctl.engine import RUN, FullSchedule, Jump, Layers, LayerSchedule, Step, forward
from dyslctl.errors import ConfigError
from dyslctl.policy import Consultation, Plan, SchedulePolicy
from dyslctl.types import LayerInputs, LayerState, Observation, TokenKind

MIX = 0.5
"""Of the mean square in the distance of hidden states; the rest is the divergence."""


@dataclass(frozen=True)
class MixtureSizes:
    """Sizes of the router.

    Attributes:
        hidden_size: ``H``.
        num_layers: ``L``.
        width: Inner width.
    """

    hidden_size: int
    num_layers: int
    width: int

    def __post_init__(self) -> None:
        if min(self.hidden_size, self.num_layers, self.width) < 1:
            raise ConfigError(f"sizes of a router must be at least 1, found {self}")

    @classmethod
    def default(cls, hidden_size: int, num_layers: int) -> MixtureSizes:
        """``H / 4``, as published, but at least 16."""
        return cls(hidden_size, num_layers, max(hidden_size // 4, 16))


class LayerRouter(nn.Module):
    """What is seen and what is said, each as one logit a layer: ``(spatial + temporal) sigmoid(temper)``.

    ``spatial`` reads the mean of the vision tokens; ``temporal`` the mean of the text tokens after one layer of
    attention among them; ``temper``, how decided the router is, the first text token.
    """

    def __init__(self, sizes: MixtureSizes) -> None:
        super().__init__()
        self.sizes, width = sizes, sizes.width
        self.norm = nn.LayerNorm(sizes.hidden_size)
        self.shared = nn.Linear(sizes.hidden_size, width)
        self.spatial = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, sizes.num_layers))
        self.attention = nn.Linear(width, 3 * width)
        self.attended_norm, self.fed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.temporal = nn.Linear(width, sizes.num_layers)
        self.temper = nn.Linear(width, 1)

    def forward(self, hidden: Tensor, vision: Tensor, text: Tensor) -> Tensor:
        """Logits ``[B, L]``.

        Args:
            hidden: ``[B, T, H]``, what enters layer 0.
            vision: ``[B, T]`` bool, the vision tokens; a sample may have none.
            text: ``[B, T]`` bool, the text tokens; at least one a sample.
        """
        seen = self.shared(self.norm(hidden))
        words, valid = _gather(seen, text)
        query, key, value = self.attention(words).chunk(3, -1)
        words = self.attended_norm(words + F.scaled_dot_product_attention(query, key, value, valid[:, None]))
        words = self.fed_norm(words + self.feed(words))
        logits: Tensor = self.spatial(_mean(seen, vision)) + self.temporal(_mean(words, valid))
        first = seen.gather(1, text.int().argmax(1)[:, None, None].expand(-1, 1, seen.shape[-1]))[:, 0]
        temper: Tensor = self.temper(first).sigmoid()
        return logits * temper

    def of(self, state: LayerState) -> Tensor:
        """The logits for what ``state`` holds before layer 0."""
        logits: Tensor = self(state.hidden, *token_classes(state))
        return logits


def require_pictures(backbone: Backbone) -> None:
    """The router reads what enters layer 0, and that must hold the pictures.

    Raises:
        ConfigError: If the layers of ``backbone`` see them by another way: all pictures would have the same layers.
    """
    if not backbone.spec.visual_tokens:
        raise ConfigError(
            f"mole picks layers by what enters the first one, and for {type(backbone).__name__} that is words alone: "
            "the same layers whatever the cameras see",
            hint="--method dysl, dysl-paper, flexidepth or deer",
        )


def token_classes(state: LayerState) -> tuple[Tensor, Tensor]:
    """``[B, T]`` bool: vision tokens, and text tokens; every real token counts as text where there is none."""
    valid = torch.ones_like(state.kinds, dtype=torch.bool) if state.mask is None else state.mask
    text = valid & (state.kinds == TokenKind.TEXT)
    return valid & (state.kinds >= TokenKind.VISION), torch.where(text.any(1, keepdim=True), text, valid)


def _gather(tokens: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """The ``members`` ``[B, T]`` of ``tokens`` ``[B, T, W]``, in order: ``[B, K, W]``, and which of them are real."""
    count = int(members.sum(1).max())
    keep = (~members).int().argsort(dim=1, stable=True)[:, :count]
    return tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[-1])), members.gather(1, keep)


def _mean(tokens: Tensor, members: Tensor) -> Tensor:
    """``[B, W]``; zero where nobody is a member."""
    weights = (members / members.sum(1, keepdim=True).clamp_min(1)).to(tokens.dtype)
    return torch.bmm(weights[:, None], tokens)[:, 0]


def layers_kept(share: float, num_layers: int) -> int:
    """``k``: so many layers as come nearest to ``share`` of them, at least one."""
    return min(max(round(share * num_layers), 1), num_layers)


def pick(logits: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """``soft`` and ``hard`` ``[B, L]``: the probabilities, and 1 for each of the ``keep`` layers with the largest."""
    soft = logits.float().softmax(-1)
    return soft, torch.zeros_like(soft).scatter(-1, soft.topk(keep, dim=-1).indices, 1.0)


class MoleSchedule(LayerSchedule):
    """Asks the router once, before layer 0; a layer that was not picked is left out. Batch size 1.

    Attributes:
        consulted: The router's answer: the probability of the layer that was picked last.
    """

    def __init__(self, router: LayerRouter, keep: int) -> None:
        """``keep``: layers to run."""
        self._route: Callable[[LayerState], Tensor] = lambda state: router.of(state)
        self._keep = keep
        self._jumps = [Jump(layer + 1) for layer in range(router.sizes.num_layers)]
        self._kept: frozenset[int] = frozenset()
        self.consulted: list[Consultation] = []

    def start(self, state: LayerState) -> None:
        """Pick; the one place where the device is waited for."""
        best = self._route(state).float().softmax(-1)[0].topk(self._keep)
        self._kept = frozenset(best.indices.tolist())
        self.consulted = [Consultation(0, best.values[-1].item())]

    def before(self, layer: int, state: LayerState) -> Step:
        """Run what was picked."""
        return RUN if layer in self._kept else self._jumps[layer]


class MolePolicy(SchedulePolicy):
    """Run the layers that the router picks for this observation."""

    schedule: MoleSchedule

    def __init__(self, backbone: Backbone, router: LayerRouter, keep: int, execute_horizon: int) -> None:
        """Put a trained router to work.

        Args:
            backbone: The frozen model.
            router: On the same device and in the same dtype.
            keep: Layers to run.
            execute_horizon: Actions of a chunk that are executed before the next inference.
        """
        super().__init__(backbone, MoleSchedule(router, keep), execute_horizon)

    def plan(self, observation: Observation) -> Plan:
        """As any schedule, with what the router answered in the report."""
        chunk = yield from super().plan(observation)
        self.last = replace(self.last, consulted=tuple(self.schedule.consulted))
        return chunk


class StraightThrough(LayerSchedule):
    """Training: every layer runs, and its output is taken where it was picked; see the top of this file.

    Attributes:
        soft, hard: ``[B, L]`` of the batch.
    """

    soft: Tensor
    hard: Tensor

    def __init__(self, router: LayerRouter, keep: int) -> None:
        self._router, self._keep = router, keep

    def start(self, state: LayerState) -> None:
        """Pick for each sample."""
        self.soft, self.hard = pick(self._router.of(state), self._keep)
        self._gates = self.hard + self.soft - self.soft.detach()

    def before(self, layer: int, state: LayerState) -> Step:
        """Keep the way around the layer."""
        state.apply(self._leave)
        return RUN

    def after(self, layer: int, state: LayerState) -> None:
        """One of the two ways, with the gradient of both."""
        state.apply(partial(self._meet, self._gates[:, layer].to(state.hidden.dtype)[:, None, None]))

    def _leave(self, hidden: Tensor) -> Tensor:
        """Of the prefill, and again of every token that the head generates."""
        self._around = hidden
        return hidden

    def _meet(self, gate: Tensor, hidden: Tensor) -> Tensor:
        return gate * hidden + (1 - gate) * self._around


@dataclass(frozen=True)
class MoleSettings:
    """What training minimises: ``task + balance_weight * balance + kd_weight * distance``.

    Attributes:
        keep: Layers to run.
        balance_weight, kd_weight: Of the terms.
        window: Consecutive inferences that the rows of a batch come in; see
            :func:`~dyslctl.dysl.distillation.predict_windows`.
        recompute: Gradient checkpointing of the decoder layers.
    """

    keep: int
    balance_weight: float
    kd_weight: float
    window: int = 1
    recompute: bool = False


@dataclass(frozen=True)
class MoleLoss:
    """The loss and its parts, scalars."""

    total: Tensor
    task: Tensor
    balance: Tensor
    distance: Tensor


def balance(soft: Tensor, hard: Tensor) -> Tensor:
    """``mean(hard soft)`` over samples and layers: the less the picked layers stand out, the smaller."""
    return (hard * soft).mean()


def hidden_distance(student: Tensor, teacher: Tensor, members: Tensor) -> Tensor:
    """``(1 - m) KL(student || teacher) + m MSE`` of a token's features, a mean over the tokens ``members``.

    Args:
        student: ``[B, T, H]``; the divergence is between softmaxes over ``H``.
        teacher: ``[B, T, H]``, what to come near to.
        members: ``[B, T]`` bool.
    """
    student, teacher = student[members].float(), teacher[members].float()
    logs, logt = student.log_softmax(-1), teacher.log_softmax(-1)
    divergence = (logs.exp() * (logs - logt)).sum(-1)
    return ((1 - MIX) * divergence + MIX * (student - teacher).square().mean(-1)).mean()


def mole_loss(
    backbone: Backbone, router: LayerRouter, inputs: LayerInputs, target: Tensor, settings: MoleSettings
) -> MoleLoss:
    """One training forward and its loss.

    Args:
        backbone: Frozen; its head keeps no memory across windows.
        router: What learns.
        inputs: ``B`` encoded observations, window after window.
        target: ``[B, N, A]`` normalised expert actions.
        settings: Layers to run, and weights of the terms.
    """
    teacher, state, picked = LayerState.of(inputs), LayerState.of(inputs), StraightThrough(router, settings.keep)
    with torch.no_grad():
        forward(backbone, teacher, FullSchedule())
    layers: Layers = Recomputed(backbone) if settings.recompute else backbone
    forward(layers, state, picked)
    task = backbone.task_loss(predict_windows(backbone, state, settings.window), target).mean()
    members = (state.kinds >= min(QUERY_KINDS)) & (state.kinds <= max(QUERY_KINDS))
    members = members if state.mask is None else members & state.mask
    even, distance = balance(picked.soft, picked.hard), hidden_distance(state.hidden, teacher.hidden, members)
    total = task + settings.balance_weight * even + settings.kd_weight * distance
    return MoleLoss(total, task, even, distance)
