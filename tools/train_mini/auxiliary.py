"""Auxiliary losses that tell a small VLA where to look. They exist at training time only.

Behaviour cloning alone learns to move well towards the wrong block. Each loss here is a linear probe on hidden states:
what lies in each patch (vision), which patch the instruction means (grounding), and where that is (geometry).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POINT_KINDS = 8
"""Six block colours, two bins."""


class AuxiliaryHeads(nn.Module):
    """Probes on the projector's patches, on the patches in the middle of the LLM, and on the read-out token.

    Args:
        hidden_size: ``H``.
        grid: Patches along one side of a view.
    """

    def __init__(self, hidden_size: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.presence = nn.Linear(hidden_size, POINT_KINDS)
        self.pointer = nn.Linear(hidden_size, 2)
        self.place = nn.Linear(hidden_size, 4)
        self.relative = nn.ModuleList(nn.Linear(hidden_size, 5) for _ in range(2))

    def forward(self, inputs: Tensor, middle: Tensor, last: Tensor, read_out: int, batch: dict[str, Tensor]) -> Tensor:
        """Sum of all auxiliary losses.

        Args:
            inputs: ``[B, T, H]`` before layer 0.
            middle: ``[B, T, H]`` after a middle layer.
            last: ``[B, T, H]`` after the last layer.
            read_out: Index of the first token the action head reads.
            batch: Columns of :func:`frames.observe`.
        """
        patches = self.grid**2
        agent, wrist = slice(1, 1 + patches), slice(1 + patches, 1 + 2 * patches)
        loss = self._presence_loss(inputs[:, agent], batch["agent_points"], batch["point_kinds"])
        loss = loss + self._presence_loss(inputs[:, wrist], batch["wrist_points"], batch["point_kinds"])
        loss = loss + self._pointer_loss(_normed(middle[:, agent]), batch)
        for probe, hidden in zip(self.relative, (middle, last), strict=True):
            loss = loss + (probe(_normed(hidden[:, read_out])).float() - batch["relative"]).abs().mean()
        return loss

    def _cells(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Patch index ``[B, M]`` of points in ``[0, 1]`` image units, and whether they are in view at all."""
        inside = ((points >= 0) & (points < 1)).all(-1)
        column_row = (points * self.grid).long().clamp(0, self.grid - 1)
        return column_row[..., 1] * self.grid + column_row[..., 0], inside

    def _presence_loss(self, patches: Tensor, points: Tensor, kinds: Tensor) -> Tensor:
        cells, inside = self._cells(points)
        seen = inside & (kinds >= 0)
        batch = torch.arange(len(kinds))[:, None].expand_as(kinds)
        truth = torch.zeros(len(kinds), self.grid**2, POINT_KINDS)
        truth[batch[seen], cells[seen], kinds[seen]] = 1.0
        return 2.0 * F.binary_cross_entropy_with_logits(self.presence(_normed(patches)).float(), truth)

    def _pointer_loss(self, patches: Tensor, batch: dict[str, Tensor]) -> Tensor:
        wanted = torch.stack([batch["target_point"], batch["goal_point"]], 1)
        points = batch["agent_points"].gather(1, wanted[..., None].expand(-1, -1, 2))
        cells, _ = self._cells(points)
        scores = self.pointer(patches).float()
        grounding = F.cross_entropy(scores.transpose(1, 2).reshape(-1, self.grid**2), cells.flatten())
        places = self.place(patches).float().unflatten(-1, (2, 2))
        located = (scores.softmax(1)[..., None] * places).sum(1).flatten(1)
        return 0.2 * grounding + (located - batch["scene_xy"]).abs().mean()


class DestinationHeads(nn.Module):
    """Where the hand will be when the fingers move next: on the object that is meant, then above its place.

    Recorded demonstrations tell no object's pose, but they tell this. Probes on the patches of the first view in the
    middle of the LLM (each says whether it shows the destination, and where that is) and on the read-out token.

    Args:
        hidden_size: ``H``.
        patches: Of one view.
    """

    def __init__(self, hidden_size: int, patches: int) -> None:
        super().__init__()
        self.patches = patches
        self.pointer = nn.Linear(hidden_size, 1)
        self.place = nn.Linear(hidden_size, 3)
        self.read_out = nn.ModuleList(nn.Linear(hidden_size, 6) for _ in range(2))

    def forward(self, middle: Tensor, read_outs: tuple[Tensor, Tensor], here: Tensor, destination: Tensor) -> Tensor:
        """Sum of the losses.

        Args:
            middle: ``[B, T, H]`` after a middle layer.
            read_outs: ``[B, H]`` the first token that the action head reads, after that layer and after the last.
            here: ``[B, 3]`` position of the hand, normalised.
            destination: ``[B, 3]`` its position when the fingers move next, normalised.
        """
        view = _normed(middle[:, 1 : 1 + self.patches])
        weights = self.pointer(view).float().softmax(1)
        loss = ((weights * self.place(view).float()).sum(1) - destination).abs().mean()
        wanted = torch.cat([destination, destination - here], -1)
        for probe, hidden in zip(self.read_out, read_outs, strict=True):
            loss = loss + (probe(_normed(hidden)).float() - wanted).abs().mean()
        return loss


def _normed(hidden: Tensor) -> Tensor:
    return F.rms_norm(hidden.float(), hidden.shape[-1:])
