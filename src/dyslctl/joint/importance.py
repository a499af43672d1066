"""How important the coming action is: one judgement from which both the token budget and the skipping are read.

SpecPrune-VLA says fine where the arm is slow, DySL-VLA is alarmed where the motion breaks off. They may disagree: a
slow and smooth approach is fine and not alarming, a fast jerk the other way round. And if both relax in the same
phases, both savings fall into those.
"""

from __future__ import annotations

from dataclasses import dataclass

from dyslctl.pruning.action_mode import Mode
from dyslctl.pruning.settings import Agreement


@dataclass(frozen=True)
class Importance:
    """What each side is told.

    Attributes:
        mode: Budgets of tokens.
        cautious: Skip less; ``None``: as the skipping method itself sees fit.
    """

    mode: Mode
    cautious: bool | None


def judge(agreement: Agreement, mode: Mode, alarmed: bool) -> Importance:
    """Both opinions, as one.

    Args:
        agreement: ``or``: one suffices, ``and``: it takes both, for either side; ``independent``: each by its own.
        mode: SpecPrune-VLA's.
        alarmed: The skipping method's.
    """
    if agreement == "independent":
        return Importance(mode, None)
    fine = mode == "fine"
    important = fine or alarmed if agreement == "or" else fine and alarmed
    return Importance("fine" if important else "coarse", important)
