"""The tiny suite with accidents, as an installed plugin that every process finds by itself.

``MORTAL_DIARY`` names the folder that counts them. The simulator dies in the first attempt at the second episode, and
in every attempt at the third; so does the expert's.
"""

from __future__ import annotations

import os
from pathlib import Path

from flaky import ALWAYS, befall  # type: ignore[import-not-found]
from tiny import TinyReach, TinyWorld  # type: ignore[import-not-found]

FIRST = 2_000_000
ACCIDENTS = {first + place: how for first in (0, FIRST) for place, how in ((1, ("crash", 1)), (2, ("kill", ALWAYS)))}
"""Seed of a ``train`` or ``test`` episode -> what happens, and how often."""


class MortalReach(TinyReach):  # type: ignore[misc]
    def make(self) -> MortalWorld:
        return MortalWorld(self.max_score, self.max_steps)

    def demonstrate_disturbed(self, spec: object, disturb: object) -> object:
        befall(Path(os.environ["MORTAL_DIARY"]), ACCIDENTS, spec.seed)  # type: ignore[attr-defined]
        return super().demonstrate_disturbed(spec, disturb)


class MortalWorld(TinyWorld):  # type: ignore[misc]
    def reset(self, spec: object) -> object:
        befall(Path(os.environ["MORTAL_DIARY"]), ACCIDENTS, spec.seed)  # type: ignore[attr-defined]
        return super().reset(spec)
